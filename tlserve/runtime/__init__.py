"""Running a bundle: backends behind one interface, and the Predictor that answers with them."""

from tlserve.runtime.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]

"""The training loop of PyTorch's transfer-learning tutorial, for a MobileNetV2.

    python -m benchmarks.peers.tutorial DATA WEIGHTS [--full] [--epochs 10] [--workers 4]

Of https://pytorch.org/tutorials/beginner/transfer_learning_tutorial.html it has the transforms, the
optimiser, the schedule, the loaders, a pass over the validation images in each epoch, and the best
weights in a file. Prints the outcome as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import mobilenet_v2

_NORMALIZE = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_TRANSFORMS = {
    "train": transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            _NORMALIZE,
        ]
    ),
    "val": transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), _NORMALIZE]
    ),
}

Loaders = dict[str, DataLoader[tuple[Tensor, Tensor]]]


def load_network(weights: Path, num_classes: int, *, full: bool) -> nn.Module:
    """Load the pretrained network, and put a new head on it.

    Args:
        weights: Its state dict.
        num_classes: How many outputs the new head has.
        full: Whether all is trained, not only the head.
    """
    network = mobilenet_v2()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.requires_grad_(full)
    network.classifier[-1] = nn.Linear(network.last_channel, num_classes)
    model: nn.Module = network
    return model


def loaders(folders: dict[str, Any], batch_size: int, workers: int) -> Loaders:
    """Load batches of both parts; as in the tutorial, the workers start anew for each pass."""
    return {
        part: DataLoader(folder, batch_size=batch_size, shuffle=True, num_workers=workers)
        for part, folder in folders.items()
    }


def train(model: nn.Module, batches: Loaders, epochs: int, device: torch.device) -> dict[str, Any]:
    """Train, and leave the best epoch's weights in the network.

    Returns:
        The seconds, and the right validation images of the best epoch and of each.
    """
    started = time.monotonic()
    objective = nn.CrossEntropyLoss()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
    schedule = StepLR(optimizer, step_size=7, gamma=0.1)
    history: list[dict[str, float]] = []
    most = -1
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder) / "best.pt"
        for _ in range(epochs):
            model.train()
            train_loss, _ = _pass(model, batches["train"], objective, device, optimizer)
            schedule.step()
            model.eval()
            val_loss, correct = _pass(model, batches["val"], objective, device)
            if correct > most:
                most = correct
                torch.save(model.state_dict(), best)
            history.append({"train_loss": train_loss, "val_loss": val_loss, "correct": correct})
        model.load_state_dict(torch.load(best, weights_only=True))
    seconds = time.monotonic() - started
    return {"train_seconds": round(seconds, 3), "correct": most, "history": history}


def _pass(
    model: nn.Module,
    batches: DataLoader[tuple[Tensor, Tensor]],
    objective: nn.Module,
    device: torch.device,
    optimizer: torch.optim.Optimizer | None = None,
) -> tuple[float, int]:
    """Go over the images once, and train where there is an optimiser.

    Returns:
        The mean loss, and how many images were right.
    """
    total, correct, images = 0.0, 0, 0
    for inputs, labels in batches:
        targets = labels.to(device)
        with torch.set_grad_enabled(optimizer is not None):
            logits = model(inputs.to(device))
            loss = objective(logits, targets)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total += loss.item() * len(labels)
        correct += int((logits.argmax(1) == targets).sum())
        images += len(labels)
    return round(total / images, 4), correct


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--full", action="store_true", help="train all, not only the head")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    # Files that are no images by their names are passed over, as `tlserve` does.
    folders = {part: ImageFolder(str(options.data / part), t) for part, t in _TRANSFORMS.items()}
    batches = loaders(folders, options.batch_size, options.workers)
    classes = folders["train"].classes
    model = load_network(options.weights, len(classes), full=options.full).to(device)
    outcome = train(model, batches, options.epochs, device)
    images = {f"{part}_images": len(folder) for part, folder in folders.items()}
    print(json.dumps(outcome | images))


if __name__ == "__main__":
    _main()

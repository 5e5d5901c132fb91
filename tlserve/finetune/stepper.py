"""One optimiser step after the other, on the blocks that are trained."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from tlserve.data.loading import Inputs
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import on_device
from tlserve.finetune.objective import Objective
from tlserve.finetune.optimizer import make_optimizer, parameter_groups, set_factor
from tlserve.finetune.precision import MixedPrecision
from tlserve.finetune.session import Session
from tlserve.finetune.strategies import Plan, freeze, train_mode
from tlserve.zoo.architectures import auxiliary_weight


class Stepper:
    """Takes the steps of a run.

    Attributes:
        optimizer: Holds the parameters that are trained.
        opened: How many of the last blocks are.
        scaler: Of the loss; does nothing but for float16.
    """

    def __init__(self, session: Session, config: FinetuneConfig, plan: Plan) -> None:
        self._session = session
        self._config = config
        self._plan = plan
        self._precision = MixedPrecision(config.precision, session.device)
        self.scaler = self._precision.scaler
        self._objective = Objective(
            config,
            session.samples,
            session.num_classes,
            auxiliary_weight(session.arch),
            session.device,
        )
        self.opened = plan.opened(1)
        freeze(session.model, plan.blocks, self.opened)
        self.optimizer = make_optimizer(session.model, config, plan, self.opened)

    def begin_epoch(self, number: int) -> None:
        """Unfreeze what an epoch, from 1, trains beside what is trained already."""
        before, self.opened = self.opened, self._plan.opened(number)
        model, plan = self._session.model, self._plan
        if self.opened > before:
            freeze(model, plan.blocks, self.opened)
            for group in parameter_groups(model, self._config, plan, before, self.opened):
                self.optimizer.add_param_group(group)
        train_mode(model, plan.blocks, self.opened)

    def step(
        self, network: nn.Module, inputs: Inputs, labels: Tensor, factor: float, share: float = 1.0
    ) -> Tensor:
        """Take a step with each group's learning rate times ``factor``.

        Args:
            network: The session's, or the part of it that is trained.
            inputs: What that takes, float32 [N, …], anywhere; images if they are to be mixed.
            labels: int64 [N], anywhere.
            factor: The schedule's.
            share: What the loss counts for in the mean over the processes: more than 1 where the
                process's part of the batch is larger than others'.

        Returns:
            The mean loss of the batch before the step, a scalar on the device.
        """
        device = self._session.device
        labels = labels.to(device, non_blocking=True)
        if isinstance(inputs, Tensor):
            inputs, labels = self._objective.mixed(inputs.to(device, non_blocking=True), labels)
        with self._precision.autocast():
            outputs = network(*on_device(inputs, device))
        loss = self._objective(outputs, labels)
        scaler = self.scaler
        set_factor(self.optimizer, factor)
        self.optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
        if self._config.clip_grad:
            scaler.unscale_(self.optimizer)
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            clip_grad_norm_(trained, self._config.clip_grad)
        scaler.step(self.optimizer)
        scaler.update()
        return loss.detach()

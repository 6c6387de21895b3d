"""Learning rate schedules of any kind, stepped manually, as Lightning does not step them if there
are two optimizers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import SettingError, TrainingError

_INTERVALS = ("epoch", "step")


def normalize(schedulers: Any, monitor: str = "val_loss") -> list[dict[str, Any]]:
    """Bring schedules into Lightning's form.

    Args:
        schedulers: None, one schedule or several. Each is one of torch's, or a mapping with
            ``scheduler`` and optionally ``interval`` (``"epoch"``, or ``"step"``: steps of its
            optimizer), ``frequency`` and ``monitor``, as in Asteroid and Lightning.
        monitor: default metric of a ``ReduceLROnPlateau``.

    Raises:
        SettingError: for any other object.
    """
    if schedulers is None:
        return []
    if isinstance(schedulers, Mapping) or not isinstance(schedulers, Sequence):
        schedulers = [schedulers]
    found = []
    for schedule in schedulers:
        config = dict(schedule) if isinstance(schedule, Mapping) else dict(scheduler=schedule)
        interval = config.get("interval", "epoch")
        config |= dict(
            # "batch" is Asteroid's older name.
            interval="step" if interval == "batch" else interval,
            frequency=config.get("frequency", 1),
            monitor=config.get("monitor", monitor),
        )
        if not hasattr(config.get("scheduler"), "step"):
            raise SettingError(
                f"{type(schedule).__name__} is no schedule; pass one of torch.optim's, or a "
                "mapping with 'scheduler'"
            )
        if config["interval"] not in _INTERVALS or not config["frequency"] >= 1:
            raise SettingError(
                f"a schedule's interval {config['interval']!r} has to be 'epoch' or 'step', its "
                f"frequency {config['frequency']!r} 1 or more"
            )
        found.append(config)
    return found


def unwrap(schedulers: Any) -> list[Any]:
    """List the schedules without their settings."""
    return [config["scheduler"] for config in normalize(schedulers)]


def end_step(
    trainer: pl.Trainer, configs: Sequence[dict[str, Any]], optimizer: Optimizer, n_steps: int
) -> None:
    """Advance the schedules by step of an optimizer that has just made its ``n_steps``-th step."""
    for config in configs:
        mine = getattr(config["scheduler"], "optimizer", None) is optimizer
        if mine and config["interval"] == "step" and n_steps % config["frequency"] == 0:
            _step(trainer, config)


def end_epoch(trainer: pl.Trainer, configs: Sequence[dict[str, Any]], validated: bool) -> None:
    """Advance the schedules by epoch.

    Args:
        trainer: trainer, in ``on_train_epoch_end``.
        configs: result of :func:`normalize`. Lightning's own lose the metric to monitor.
        validated: True if this epoch was validated; a plateau needs new metrics.
    """
    for config in configs:
        due = (trainer.current_epoch + 1) % config["frequency"] == 0
        stale = isinstance(config["scheduler"], ReduceLROnPlateau) and not validated
        if config["interval"] == "epoch" and due and not stale:
            _step(trainer, config)


def _step(trainer: pl.Trainer, config: dict[str, Any]) -> None:
    scheduler, monitor = config["scheduler"], config["monitor"]
    if not isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step()
        return
    value = trainer.callback_metrics.get(monitor)
    if value is None:
        measured = ", ".join(sorted(trainer.callback_metrics)) or "nothing yet"
        raise TrainingError(
            f"ReduceLROnPlateau follows '{monitor}', which is not measured; known: {measured}"
        )
    scheduler.step(float(value))

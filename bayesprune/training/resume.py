"""What a checkpoint of a run holds, and how a run is taken up from it."""

from __future__ import annotations

import warnings
from pathlib import Path

from bayesprune.errors import CheckpointError, GateError
from bayesprune.infer import RandomState
from bayesprune.schema import brief
from bayesprune.training.contents import check_fits, refused
from bayesprune.training.history import History
from bayesprune.training.trainer import Trainer


def state_of(run: Trainer) -> dict:
    """Everything that the rest of a run depends on; every process has to ask for it."""
    return {
        **run.fingerprint,
        "run": run.run,
        "epochs": run.schedule.epochs,
        "steps_per_epoch": run.schedule.steps_per_epoch,
        "num_data": run.net.num_data,
        "epoch": run.epoch,
        "step": run.step,
        "branch_evaluations": run.net.branch_evaluations,
        "origin": run.surgeon.origin,
        "agreed": run.surgeon.monitor.agreed.cpu(),
        "updates": run.updates.state(),
        "prices": run.prices.state(),
        "tensors": run.net.net.state_dict(),
        "likelihood": run.net.likelihood.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "history": run.history.state(),
        "gates_rng": run.sampler.state(),
        "rng": run.engine.gather(RandomState.now(run.engine.device).tensors()),
    }


def take_up(run: Trainer, state: dict, path: Path) -> None:
    """Let a run that has not begun go on from the state of a checkpoint of the same network and run.

    Args:
        run: The run, edited in place.
        state: From `read_state`.
        path: Where it was read from, for messages.

    Raises:
        CheckpointError: if network, settings, number of epochs or data differ from the checkpoint's, if it was left by
            another run, or if what it holds does not fit.
    """
    try:
        _check_identity(run, state, path)
        with refused(path):
            _take_up(run, state)
    except CheckpointError:
        raise
    except (GateError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit the run ({type(error).__name__}); start the run anew") from error
    if len(state["rng"]) == run.engine.world_size:
        RandomState.of(run.engine.device, state["rng"][run.engine.rank]).restore()
    else:
        warnings.warn(
            f"{path} was written by {len(state['rng'])} processes and is taken up by {run.engine.world_size}: the "
            "run goes on with the same batches and gates, but with other random numbers for dropout",
            stacklevel=2,
        )


def _check_identity(run: Trainer, state: dict, path: Path) -> None:
    """Refuse the checkpoint of another run."""
    for key, mine in {
        **run.fingerprint,
        "epochs": run.schedule.epochs,
        "steps_per_epoch": run.schedule.steps_per_epoch,
        "run": run.run,
    }.items():
        if state.get(key) != mine:
            raise CheckpointError(
                f"{path} belongs to another run: its {key} is {brief(state.get(key))}, here it is {brief(mine)}; "
                "resume with the same network, data, settings and epochs, or start in another folder"
            )


def _take_up(run: Trainer, state: dict) -> None:
    cut = run.surgeon.cut_to(state["origin"])
    check_fits(run, state, run.net.net if cut is None else cut[0])
    if cut is not None:
        run.surgeon.follow(*cut)
    run.net.net.load_state_dict(state["tensors"])
    run.net.likelihood.load_state_dict(state["likelihood"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.follow()
    run.updates.load(state["updates"])
    run.surgeon.monitor.agreed = state["agreed"].to(run.net.theta.device)
    run.history = History.from_state(state["history"])
    run.surgeon.removals = run.history.removals
    run.epoch, run.step = state["epoch"], state["step"]
    run.prices.load(state["prices"])
    run.prices.update(run.step)
    run.net.branch_evaluations = state["branch_evaluations"]
    run.sampler.load(state["gates_rng"])

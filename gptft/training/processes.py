"""Several processes that train one model: who writes, what each reads, what all of them know.

They are started by a launcher (torchrun, accelerate launch), which says so in the environment. Alone, all of this does
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from gptft.errors import UserError
from gptft.runs.folder import Run

T = TypeVar("T")


def world_size() -> int:
    """How many processes a launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one, from 0."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def join() -> None:
    """Meet the others; needed before any of them waits."""
    if world_size() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.accelerator.is_available())


def first_alone(do: Callable[[], T]) -> T:
    """Have process 0 do something, then the others, who find what it left (a cache, a download)."""
    if world_size() == 1:
        return do()
    from accelerate import PartialState

    with PartialState().main_process_first():
        return do()


def from_first(do: Callable[[], T]) -> T:
    """What process 0 gives, in all of them; only it calls `do`."""
    if world_size() == 1:
        return do()
    from accelerate.utils import broadcast_object_list

    said: list[Any] = [do() if rank() == 0 else None]
    return broadcast_object_list(said)[0]


def gathered(own: Sequence[T]) -> list[T]:
    """All items, where each process has every `world_size()`-th from its own number on."""
    if world_size() == 1:
        return list(own)
    from torch.distributed import all_gather_object

    parts: list[Any] = [None] * world_size()
    all_gather_object(parts, list(own))
    return [parts[index % len(parts)][index // len(parts)] for index in range(sum(map(len, parts)))]


def summed(values: np.ndarray, device: Any) -> np.ndarray:
    """The sum of arrays of one shape over the processes."""
    if world_size() == 1:
        return values
    import torch
    from torch.distributed import all_reduce

    total = torch.from_numpy(values).to(device)
    all_reduce(total)
    return total.cpu().numpy()


def highest(value: int, device: Any) -> int:
    """The largest of a number over the processes."""
    if world_size() == 1:
        return value
    import torch
    from torch.distributed import ReduceOp, all_reduce

    largest = torch.tensor(value, device=device)
    all_reduce(largest, ReduceOp.MAX)
    return int(largest)


class ReadRun(Run):
    """The run as the other processes have it: they write nothing of it but their own random state."""

    def update_manifest(self, **entries: Any) -> None:
        """Leave it to process 0."""

    def set_latest(self) -> None:
        """Likewise."""


def spreads_weights(arguments: Any) -> bool:
    """Whether FSDP or DeepSpeed was asked for, in the TrainingArguments or of accelerate's launcher."""
    asked = [os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED")]
    return bool(arguments.fsdp or arguments.deepspeed or any(asked))


def spread_over_cpus(arguments: Any) -> None:
    """Have Accelerate spread weights by FSDP2 over processes on CPUs, as torch can; call it before the Trainer is made.

    Accelerate itself looks for FSDP among several GPUs only.
    """
    from accelerate import Accelerator, DistributedType, PartialState
    from accelerate.utils import FullyShardedDataParallelPlugin

    # What the launcher's environment says, where the arguments say nothing.
    plugin = FullyShardedDataParallelPlugin(**(arguments.fsdp_plugin_args or {}))
    if plugin.fsdp_version != 2:
        raise UserError("training.fsdp: on CPUs weights are spread by version 2 only.")
    state = Accelerator(cpu=True, mixed_precision=arguments.mixed_precision).state
    PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
    if arguments.mixed_precision != "no":
        plugin.set_mixed_precision(arguments.mixed_precision)
    state.fsdp_plugin = plugin


def run_of(folder: Path) -> Run:
    """The run in this process."""
    return Run(folder) if rank() == 0 else ReadRun(folder)


def launch(how: str, arguments: Sequence[str]) -> NoReturn:
    """Launch `python -m gptft ARGUMENTS` in several processes and end as they end.

    Args:
        how: a number of processes on this machine, or a file that `accelerate config` wrote.
        arguments: of gptft, without `--launch`.

    Raises:
        UserError: neither a number from 1 on nor a file, or already launched.
        SystemExit: always, with the exit code of the process that failed first.
    """
    import torch

    if world_size() > 1:
        raise UserError("--launch: a launcher has started this process already; leave one of the two out.")
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    module, known = ["-m", "gptft", *arguments], how.isdecimal() and int(how) > 0
    if not known and not Path(how).is_file():
        raise UserError(f"--launch {how}: give a number of processes, or a file that `accelerate config` wrote.")
    try:
        if not known:
            launch_command(launch_command_parser().parse_args(["--config_file", how, *module]))
        elif torch.cuda.is_available():
            several = ["--multi_gpu"] if int(how) > 1 else []
            options = [*several, "--num_processes", how, "--num_machines", "1", "--dynamo_backend", "no"]
            launch_command(launch_command_parser().parse_args([*options, "--mixed_precision", "no", *module]))
        else:
            # Accelerate's launcher starts several processes on CPUs by MPI alone.
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(how))))
            torchrun.main(["--standalone", "--nproc_per_node", how, *module])
    except ChildFailedError as error:
        raise SystemExit(error.get_first_failure()[1].exitcode) from None
    except SignalException as stopped:
        raise SystemExit(128 + int(stopped.sigval)) from None
    raise SystemExit(0)

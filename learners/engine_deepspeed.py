"""DeepSpeed: owns the float32 master weights, their gradients and AdamW's moments, whole or partitioned (ZeRO 0 to 3).

The only file that imports deepspeed. On a CPU it needs neither CUDA nor a compiler: torch's fused AdamW stands in for
DeepSpeed's own, and no operator is built. With one rank nothing listens beyond loopback and no port is chosen: the
rendezvous is in memory. DeepSpeed's messages go to stderr.

`update` is where a bad gradient is caught: it raises before the weights change.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swarm.errors import DivergedError

_TAG = "engine"
_PREFIX = "model."
"""`learners.policy.Policy` holds the model under this name."""


class DeepSpeedEngine:
    """One rank of the training engine around `module`. There can be one in a process."""

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float,
        betas: Sequence[float],
        weight_decay: float,
        grad_clip: float,
        zero_stage: int,
        device: str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        master: str = "",
    ) -> None:
        """`device` is `cpu` or `cuda`; `master` is HOST:PORT of rank 0's rendezvous, needed with several ranks."""
        deepspeed = _import(device)
        _join(device, rank, world_size, master)
        self._deepspeed = deepspeed
        self._stage, self._grad_clip = zero_stage, grad_clip
        module.to(device)
        matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
        vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=lr, betas=(betas[0], betas[1]), eps=1e-8, fused=True
        )
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # the learner says which backward pass is the last of an update
            # Without ZeRO DeepSpeed clips but does not tell the norm, so there it is done here.
            "gradient_clipping": grad_clip if zero_stage else 0.0,
            "steps_per_print": None,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": zero_stage,
                "overlap_comm": False,
                # In elements; the default of 5e8 would reserve 2 GB per bucket in float32.
                "reduce_bucket_size": 50_000_000,
                "allgather_bucket_size": 50_000_000,
            },
        }
        self._engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        self._module = module
        if world_size == 1 and zero_stage == 0:
            self._engine.enable_backward_allreduce = False  # nobody to add to: saves two copies of all gradients

    def __call__(self, *args: Any) -> Any:
        """The module's forward pass."""
        return self._engine(*args)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`; `last` marks the final pass before `update`.

        Gradients are summed over ranks: DeepSpeed's mean is undone, since the loss is divided by the tokens of all.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * torch.distributed.get_world_size())

    def update(self, lr: float, limit: float = math.inf) -> float:
        """Clip, step AdamW at `lr`, clear the gradients; returns the gradient norm before clipping.

        Raises DivergedError where the norm is not finite, or beyond `limit`; the weights are then as they were.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        if self._stage == 0:
            grads = [p.grad for p in self._module.parameters() if p.grad is not None]
            total = torch.nn.utils.get_total_norm(grads)
            norm = total.item()
            if norm <= limit and math.isfinite(norm):
                if norm > self._grad_clip:
                    torch.nn.utils.clip_grads_with_norm_(self._module.parameters(), self._grad_clip, total)
                self._engine.step()
        else:
            norm = self._partitioned_norm()
            if norm <= limit:
                self._engine.step()
        if not math.isfinite(norm):
            self.forget()
            raise DivergedError("the gradient is not finite")
        if norm > limit:
            self.forget()
            raise DivergedError(f"the gradient norm is {norm:.3g} (learners.limits.grad_norm = {limit:g})")
        return norm

    def _partitioned_norm(self) -> float:
        """The norm that DeepSpeed's step is going to clip by; NaN where it is not finite."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        optimizer = self._engine.optimizer
        if self._stage == 3:
            norm = float(combine_grad_norm_groups(optimizer._get_norm_groups()))
        else:
            norm = float(optimizer.scaled_global_norm())
        return math.nan if norm < 0 else norm  # -1 is its mark

    def forget(self) -> None:
        """Drop gradients that have been added since the last update."""
        self._module.zero_grad(set_to_none=True)
        if self._stage:
            self._engine.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def parameters(self, model: nn.Module) -> Iterator[Mapping[str, Tensor]]:
        """Names and float32 values of `model`'s parameters (a part of the module); whole also under ZeRO 3."""
        named = dict(model.named_parameters())
        with self._deepspeed.zero.GatheredParameters(list(named.values()), enabled=self._stage == 3):
            yield {name: p.detach() for name, p in named.items()}

    def save(self, folder: Path) -> None:
        """Weights and moments as DeepSpeed writes them: one file per rank and kind."""
        self._engine.save_checkpoint(str(folder), tag=_TAG)

    def load(self, folder: Path) -> None:
        """Bit for bit what `save` wrote, at the same stage and number of ranks."""
        found, _ = self._engine.load_checkpoint(str(folder), tag=_TAG)
        if found is None:
            raise FileNotFoundError(f"{folder}: no learner state")

    def close(self) -> None:
        """Free what DeepSpeed holds. The process group stays until the process ends: the next engine of this process
        needs the same one, and DeepSpeed cannot be given another."""
        self._engine.destroy()


def _import(device: str) -> Any:
    """DeepSpeed for this device, quiet on stdout."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed

    if device == "cpu":
        # Looking for operators it could build runs compilers; a shared-memory one would be built on the spot.
        deepspeed.ops.__compatible_ops__ = {}
    for handler in logging.getLogger("DeepSpeed").handlers:
        if type(handler) is logging.StreamHandler:  # its own; others may have added theirs
            handler.setStream(sys.stderr)
    return deepspeed


def _join(device: str, rank: int, world_size: int, master: str) -> None:
    """Make the process group; deepspeed then finds it and looks for no launcher, MPI or hostname."""
    import deepspeed

    backend = "nccl" if device == "cuda" else "gloo"
    os.environ.setdefault("LOCAL_RANK", "0")  # each rank is given its own GPU as device 0
    if not torch.distributed.is_initialized():
        if world_size == 1:
            if backend == "gloo" and sys.platform == "linux":
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            where = {"store": torch.distributed.HashStore()}
        else:
            where = {"init_method": f"tcp://{master}"}
        torch.distributed.init_process_group(
            backend, rank=rank, world_size=world_size, timeout=timedelta(minutes=10), **where
        )
        atexit.register(torch.distributed.destroy_process_group)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The float32 master weights in what `save` wrote, by the names of the model, without an engine or a process group.

    Works for every stage and number of ranks. Raises OSError or ValueError where the folder holds no such state.
    """
    _import("cpu")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    states = folder / _TAG / "mp_rank_00_model_states.pt"
    if states.exists() and not list((folder / _TAG).glob("*optim_states.pt")):
        named = torch.load(states, map_location="cpu", weights_only=False)["module"]  # our own file
    else:
        named = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=_TAG)
    return {name.removeprefix(_PREFIX): value for name, value in named.items() if name.startswith(_PREFIX)}

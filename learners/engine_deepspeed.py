"""DeepSpeed: owns the float32 master weights, their gradients and AdamW's moments, whole or partitioned (ZeRO 0 to 3).

The only file that imports deepspeed. On a CPU it needs neither CUDA nor a compiler: torch's fused AdamW stands in for
DeepSpeed's own, and no operator is built. With one rank nothing listens beyond loopback and no port is chosen: the
rendezvous is in memory; with several it is a store of `learners.ranks`. DeepSpeed's messages go to stderr.

Every method but `pieces`, `shapes`, `updates` and `close` is for all ranks at once, in the same order.

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
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from learners.state import Piece, SavedState
from swarm.errors import DivergedError

T = TypeVar("T")

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
        offload: bool = False,
        device: str = "cpu",
        rank: int = 0,
        ranks: int = 1,
        store: torch.distributed.Store | None = None,
    ) -> None:
        """`device` is `cpu` or `cuda`; `store` is where the ranks meet (`learners.ranks`), needed with several.
        `offload` keeps masters and moments in the host's memory (stages 1 to 3)."""
        deepspeed = quietly(device)
        _join(device, rank, ranks, store)
        self._deepspeed, self._device = deepspeed, device
        self._stage, self._grad_clip = zero_stage, grad_clip
        self._rank, self._ranks = rank, ranks
        module.to(device)
        matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
        vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=lr, betas=(betas[0], betas[1]), eps=1e-8, fused=True
        )
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # the learner says which backward pass is the last of an update
            # Without ZeRO DeepSpeed clips but does not tell the norm, so there it is done here.
            "gradient_clipping": grad_clip if zero_stage else 0.0,
            "steps_per_print": None,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # its own would have to be compiled
            "zero_optimization": {
                "stage": zero_stage,
                "overlap_comm": False,
                # In elements; the default of 5e8 would reserve 2 GB per bucket in float32.
                "reduce_bucket_size": 50_000_000,
                "allgather_bucket_size": 50_000_000,
            },
        }
        if offload:
            config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": device == "cuda"}
        self._engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        self._module = module
        if ranks == 1 and zero_stage == 0:
            self._engine.enable_backward_allreduce = False  # nobody to add to: saves two copies of all gradients

    def __call__(self, *args: Any) -> Any:
        """The module's forward pass."""
        return self._engine(*args)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`; `last` marks the final pass before `update`.

        Gradients are summed over ranks: DeepSpeed's mean is undone, since the loss is divided by the tokens of all.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._ranks)

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
        optimizer = self._engine.optimizer
        if self._stage == 3:
            optimizer._overflow_clean_up(1.0)
        elif self._stage:
            optimizer.zero_grad(set_to_none=True)
            optimizer.micro_step_id = -1  # as before the first pass
            optimizer._release_preflattened_grad_buffers()
            optimizer.averaged_gradients.clear()
            optimizer.all_grad_tensors.clear()

    @contextmanager
    def parameters(self, model: nn.Module) -> Iterator[Mapping[str, Tensor]]:
        """Names and float32 values of `model`'s parameters (a part of the module); whole also under ZeRO 3."""
        named = dict(model.named_parameters())
        with self._deepspeed.zero.GatheredParameters(list(named.values()), enabled=self._stage == 3):
            yield {name: p.detach() for name, p in named.items()}

    def pieces(self) -> list[Piece]:
        """What this rank writes into a checkpoint: together the ranks' pieces cover every trained parameter once.

        Under ZeRO 1 to 3 it is what DeepSpeed keeps here, so that nothing travels; without ZeRO, where every rank has
        all, an even cut.
        """
        if self._stage:
            return self._held()
        everything = self._held()
        total, at, out = sum(piece.num for piece in everything), 0, []
        low, high = (total * (self._rank + i) // self._ranks for i in (0, 1))
        for piece in everything:
            start, stop = max(low - at, 0), min(high - at, piece.num)
            if start < stop:
                out.append(piece.part(start, stop))
            at += piece.num
        return out

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every trained parameter, by the model's name."""
        return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in self._trained()}

    def updates(self) -> dict[str, int]:
        """How often AdamW has updated each parameter, which its bias correction depends on."""
        found = {piece.name: piece.updates() for piece in self._held()}
        most = max(found.values(), default=0)
        return {name: found.get(name, most) for name, _ in self._trained()}

    def load(self, saved: SavedState) -> None:
        """Take weights and moments, of whatever stage and number of ranks they were saved. Raises ValueError where
        parameters or shapes are not those of the module."""
        shapes = self.shapes()
        if shapes != saved.shapes:
            odd = sorted(n for n in shapes.keys() | saved.shapes.keys() if shapes.get(n) != saved.shapes.get(n))
            raise ValueError(
                f"{saved.folder}: saved of another model; {odd[0]} is {saved.shapes.get(odd[0])}, wanted "
                f"{shapes.get(odd[0])}"
            )
        for state in {id(piece.flat): piece for piece in self._held()}.values():
            state.reset(0)
        for piece in self._held():
            piece.reset(max(piece.updates(), saved.updates[piece.name]))
            for kind, tensor in piece.tensors().items():
                saved.read_into(tensor, kind, piece.name, piece.start)
        self._spread()

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        named = self._module.named_parameters()
        return [(name.removeprefix(_PREFIX), p) for name, p in named if p.requires_grad]

    def _held(self) -> list[Piece]:
        """All that this rank's optimiser updates."""
        optimizer, out = self._engine.optimizer, []
        names = {id(p): name for name, p in self._trained()}
        if self._stage == 0:
            return [Piece(name, 0, p.numel(), p, 0, optimizer.state) for name, p in self._trained()]
        state = optimizer.optimizer.state
        if self._stage == 3:
            for name, p in self._trained():
                group, offset, num = optimizer.grad_position[optimizer.get_param_id(p)]
                start = num * self._rank
                num = min(num, p.ds_numel - start)  # the last rank's share is padded
                if num > 0:
                    out.append(Piece(name, start, num, optimizer.fp32_partitioned_groups_flat[group], offset, state))
            return out
        for group, flat in zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True):
            for p in group:
                if p._hp_mapping is not None:
                    here, there = p._hp_mapping.lp_fragment_address, p._hp_mapping.hp_fragment_address
                    out.append(Piece(names[id(p)], here.start, here.numel, flat, there.start, state))
        return out

    def _spread(self) -> None:
        """Bring what was written into the master weights to the module, on all ranks."""
        optimizer = self._engine.optimizer
        if self._stage == 3:
            for group in range(len(optimizer.fp16_groups)):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
            if kept := optimizer.persistent_parameters:  # small ones that are whole on every rank
                kept[0].partition(kept)
                kept[0].all_gather(kept)
        elif self._stage:
            optimizer.update_lp_params()
            for group in range(len(optimizer.bit16_groups)):
                optimizer._update_model_bit16_weights(group)

    def sum(self, value: float) -> float:
        """Over all ranks."""
        if self._ranks == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(total)
        return float(total.item())

    def gather(self, thing: T) -> list[T]:
        """What every rank gave, by rank, on every rank."""
        if self._ranks == 1:
            return [thing]
        things: list[Any] = [None] * self._ranks
        torch.distributed.all_gather_object(things, thing)
        return things

    def close(self) -> None:
        """Free what DeepSpeed holds. The process group stays until the process ends: the next engine of this process
        needs the same one, and DeepSpeed cannot be given another."""
        self._engine.destroy()


def quietly(device: str) -> Any:
    """DeepSpeed, imported for this device and kept from writing to stdout."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed

    if device == "cpu":
        # Looking for operators it could build runs compilers; a shared-memory one would be built on the spot.
        deepspeed.ops.__compatible_ops__ = {}
    for handler in logging.getLogger("DeepSpeed").handlers:
        if type(handler) is logging.StreamHandler:  # its own; others may have added theirs
            handler.setStream(sys.stderr)
    return deepspeed


def _leave() -> None:
    if torch.distributed.is_initialized():  # an engine of another library in this process may have ended it
        torch.distributed.destroy_process_group()


def _join(device: str, rank: int, ranks: int, store: torch.distributed.Store | None) -> None:
    """Make the process group; deepspeed then finds it and looks for no launcher, MPI or hostname."""
    import deepspeed

    backend = "nccl" if device == "cuda" else "gloo"
    os.environ.setdefault("LOCAL_RANK", "0")  # each rank is given its own GPU as device 0
    if not torch.distributed.is_initialized():
        if ranks == 1:
            if backend == "gloo" and sys.platform == "linux":
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            store = torch.distributed.HashStore()
        torch.distributed.init_process_group(
            backend, rank=rank, world_size=ranks, timeout=timedelta(minutes=10), store=store
        )
        atexit.register(_leave)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)

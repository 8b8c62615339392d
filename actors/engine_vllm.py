"""Generation with vLLM 0.32, in this process, stepped on the engine's own thread; the one file that imports vLLM.

Weights reach the running engine through vLLM's weight-transfer calls, with a transfer engine of ours that hands the
checked mapping (see `actors.staging`) to the model's own loader, layer by layer. What vLLM leaves to its user:

- On CPU a seeded request whose prefill is cut into chunks kills the engine ("CPU Generator does not use offset").
  Chunked prefill is off: a prompt that does not fit into a step waits for the next, also one that is recomputed after
  a cleared cache or a preemption.
- `load_weights` may leave layers out without an error. The received names must be the model's, and the returned ones
  must cover every parameter; otherwise the update fails, is finalised (a half-open update can't be repeated) and the
  last good set is pushed.
- A tied head keeps multiplying with its packed copy of the old weights on CPU: it is given the embedding's, which is
  packed anew at each load.
- With `keep_cache` requests go on over keys and values of older weights; new requests never share those (their prefix
  cache is salted with the version). Without it the requests under way are computed again from their first token.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from actors import staging
from actors.engine_thread import EngineThread, Request
from swarm.errors import ConfigError
from swarm.roles import Completion
from swarm.types import Finish, PolicyVersion, Span
from swarm.weights import Tensor, open_mapped

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

SUPPORTED = "0.32."
BACKEND = "swarm_mapped"
CALLS = ("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update")


class VllmEngine(EngineThread):
    """vLLM behind :class:`swarm.roles.Engine`. Raises ConfigError where vLLM is missing or of another version."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_context: int,
        seed: int,
        version: PolicyVersion,
        max_num_seqs: int = 256,
        max_batched_tokens: int = 8192,
        kv_cache_gib: float = 1.0,
        prefix_caching: bool = True,
        block_size: int = 32,
        keep_cache: bool = False,
        eager: bool = True,
        eos_ids: Sequence[int] = (),
    ) -> None:
        """`max_context` is prompt and completion together, in tokens; `max_batched_tokens` bounds the prompt tokens of
        one step; prompts share whole blocks of `block_size` tokens (vLLM's own default on CPU is longer than most
        prompts); `eos_ids` default to those of the model folder; `eager` skips compilation and graphs."""
        self._options: dict[str, Any] = {
            "max_num_batched_tokens": max(max_batched_tokens, max_context + 1, max_num_seqs + 1),
            "kv_cache_memory_bytes": int(kv_cache_gib * 2**30),
            "enable_prefix_caching": prefix_caching,
            "block_size": block_size,
            "enforce_eager": eager,
        }
        super().__init__(
            model,
            dtype=dtype,
            max_context=max_context,
            seed=seed,
            version=version,
            max_num_seqs=max_num_seqs,
            keep_cache=keep_cache,
            eos_ids=eos_ids,
        )

    def _open(self) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # a learner shares the machine
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            import vllm
        except ImportError as error:
            raise ConfigError(
                f"engine vllm: cannot import vLLM ({error}); install swarm[cpu] or swarm[gpu], or use transformers"
            ) from None
        problem = unsupported(vllm.__version__, vars(vllm.LLM).keys() | dir(vllm.LLM))
        if problem:
            raise ConfigError(problem)
        import torch._dynamo
        from vllm.config import WeightTransferConfig

        if self._options["enforce_eager"]:
            # vLLM's sampler compiles a helper all the same, which needs g++ and takes up to minutes on a busy machine.
            torch._dynamo.config.disable = True
        register()
        self._wanted = staging.manifest(self._model, self._dtype)
        # One token more than the context, where the model has it: scoring a full context samples one token after it.
        longest = _longest(self._model)
        self._llm = vllm.LLM(
            self._model,
            dtype=self._dtype,
            seed=self._seed,
            max_model_len=min(self._max_context + 1, longest or self._max_context + 1),
            max_num_seqs=self._max_num_seqs + 1,  # the canary joins a full batch
            enable_chunked_prefill=False,
            async_scheduling=False,  # with it a step's tokens would get the next step's version
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,
            generation_config="vllm",
            disable_log_stats=True,
            weight_transfer_config=WeightTransferConfig(backend=BACKEND),
            **self._options,
        )
        self._engine = self._llm.llm_engine
        self._core: Any = self._engine.engine_core.engine_core
        self._vocab = self._engine.model_config.get_vocab_size()
        self._llm.init_weight_transfer_engine({"init_info": {"names": list(self._wanted)}})
        self._llm.update_weight_version(str(self.version.step))

    def _start(self, request: Request) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        score, choices = request.score_from is not None, request.choices
        sample = not score and choices is None
        temperature = 1.0 if choices else request.temperature  # log-probabilities are those of the distribution sampled
        params = SamplingParams(
            max_tokens=request.max_new_tokens if sample else 1,
            temperature=temperature,
            seed=request.seed if temperature > 0 else None,
            stop_token_ids=list(self._eos_ids) if sample else [],
            ignore_eos=True,  # the ids above are all that stop
            logprobs=0 if sample else None,
            logprob_token_ids=choices,
            prompt_logprobs=0 if score else None,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": request.tokens, "cache_salt": self._label(self.version)}
        self._engine.add_request(request.id, prompt, params)

    def _advance(self) -> list[tuple[str, Completion | np.ndarray]]:
        return [(o.request_id, self._result(o)) for o in self._engine.step() if o.finished]

    def _result(self, output: RequestOutput) -> Completion | np.ndarray:
        request = self._running[output.request_id]
        if request.score_from is not None:
            assert output.prompt_logprobs is not None
            scored = range(request.score_from, len(request.tokens))
            found = (output.prompt_logprobs[i][request.tokens[i]].logprob for i in scored)
            return np.fromiter(found, np.float32, len(scored))
        out = output.outputs[0]
        if request.choices is not None:
            [first] = out.logprobs
            return np.fromiter((first[token].logprob for token in request.choices), np.float32, len(request.choices))
        tokens = list(out.token_ids)
        found = (position[token].logprob for token, position in zip(tokens, out.logprobs, strict=True))
        return Completion(
            tokens=np.array(tokens, np.int32),
            logprobs=np.fromiter(found, np.float32, len(tokens)),
            spans=tuple(Span(int(s.version), s.start, s.end) for s in out.weight_versions or ()),
            finish=Finish.STOP if out.finish_reason == "stop" else Finish.LENGTH,
        )

    def _drop(self, ids: Sequence[str]) -> None:
        if ids:
            self._engine.abort_request(list(ids))

    def _pause(self, clear_cache: bool) -> None:
        self._core.pause_scheduler(mode="keep", clear_cache=clear_cache)
        if not self._core.is_scheduler_paused():
            raise RuntimeError("vLLM did not pause")

    def _replace(self, tensors: Mapping[str, Tensor], version: PolicyVersion) -> None:
        self._llm.start_weight_update()
        self._llm.update_weights({"update_info": {"source": tensors}})
        self._llm.finish_weight_update(str(version.step))
        if self._llm.get_weight_version() != str(version.step):
            raise RuntimeError(f"vLLM kept the label {self._llm.get_weight_version()!r}")

    def _resume(self) -> None:
        self._core.resume_scheduler()

    def _shut(self) -> None:
        self._engine.engine_core.shutdown()
        del self._core, self._engine, self._llm

    @staticmethod
    def _label(version: PolicyVersion) -> str:
        return f"{version.learner}/{version.lineage}/{version.step}"


def unsupported(version: str, present: set[str]) -> str:
    """What is wrong with an installed vLLM, in one line; empty where nothing is."""
    missing = [call for call in CALLS if call not in present]
    if version.startswith(SUPPORTED) and not missing:
        return ""
    gone = f"; this one has no LLM.{', LLM.'.join(missing)}" if missing else ""
    return f"engine vllm: vLLM {version} is installed, {SUPPORTED}x is needed for its weight-transfer calls{gone}"


def register() -> None:
    """Make our transfer engine known to vLLM: the `vllm.general_plugins` entry point, run in each of its processes."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    with contextlib.suppress(ValueError):  # vLLM may run a plugin more than once
        WeightTransferEngineFactory.register_engine(BACKEND, _transfer_engine())


@functools.cache
def _transfer_engine() -> type:
    """The transfer engine's class, made on first use since its base is vLLM's."""
    import torch
    from vllm.distributed.weight_transfer.base import (
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    @dataclass
    class Complete(WeightTransferInitInfo):
        names: list[str]
        """Of every tensor that an update must bring."""

    @dataclass
    class Source(WeightTransferUpdateInfo):
        source: Any
        """A mapping of name to `swarm.weights.Tensor` (same process), or the path of a weight file."""

    class MappedTransfer(WeightTransferEngine[Complete, Source]):
        init_info_cls = Complete
        update_info_cls = Source

        def init_transfer_engine(self, init_info: Complete) -> None:
            self.names = set(init_info.names)
            _pack_shared(self.model)

        def start_weight_update(self) -> None:
            # Packed parameters hide behind placeholders of the same names, so this is the list of a complete load.
            self.parameters = {name for name, _ in self.model.named_parameters()}
            with torch.device(self.device):
                initialize_layerwise_reload(self.model)

        def receive_weights(self, update_info: Source) -> None:
            source = update_info.source
            tensors = source if isinstance(source, Mapping) else open_mapped(source)
            try:
                with torch.device(self.device):
                    loaded = self.model.load_weights((name, _as_torch(t)) for name, t in tensors.items())
                lost = sorted((self.names - tensors.keys()) | (self.parameters - set(loaded or ())))
                if lost:
                    raise ValueError(f"{len(lost)} of the model's tensors were not loaded, {lost[0]} among them")
            except BaseException:
                self.finish_weight_update()  # else only some of the cut points can be repaired by a full load
                raise

        def finish_weight_update(self) -> None:
            with torch.device(self.device):
                finalize_layerwise_reload(self.model, self.model_config)
                _pack_shared(self.model)

        def shutdown(self) -> None:
            pass

    return MappedTransfer


def _pack_shared(model: Any) -> None:
    """Let what shares its weight with an earlier layer (a tied head) multiply with that layer's packed copy.

    On CPU each of them packs a copy of its own, of which the embedding's is never used. The reload renews the shared
    parameter and the embedding's copy and leaves the head's as it was: log-probabilities of the old head.
    """
    owners: dict[int, Any] = {}
    for layer in model.modules():
        weight = layer._parameters.get("weight")
        if weight is None:
            continue
        owner = owners.setdefault(id(weight), layer)
        if owner is not layer and hasattr(owner, "cpu_linear"):
            layer.cpu_linear = owner.cpu_linear


def _as_torch(tensor: Tensor) -> Any:
    import torch

    dtype = getattr(torch, tensor.dtype)
    if not tensor.data.nbytes:
        return torch.empty(tensor.shape, dtype=dtype, device="cpu")
    return torch.frombuffer(tensor.data, dtype=dtype).view(tensor.shape)


def _longest(model: str) -> int | None:
    from transformers import AutoConfig

    return getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)

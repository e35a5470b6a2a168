"""A loaded model together with the store that its blocks go to: looking up, keeping, prefetching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers

from grit_integrations.kv.keys import KeySpace, plan_keys
from grit_integrations.kv.reuse import Reuse
from grit_integrations.loading.kernels import check_takes_masks
from grit_integrations.prompts.plan import Plan, PlannedBlock
from grit_integrations.results import CacheReport

if TYPE_CHECKING:
    from grit_integrations.doc_blocks import DocBlocks
    from grit_integrations.engine.encode_job import Keep
    from grit_integrations.engine.engine import Engine
    from grit_integrations.kv.blocks import KVBlock
    from grit_integrations.kv.policy import CachePolicy
    from grit_integrations.kv.store.store import KVCacheStore
    from grit_integrations.options import Caching
    from grit_integrations.prompts.embedding import EncoderInput


@dataclass(frozen=True, slots=True)
class BlockCache:
    """What one `GritLM` reuses.

    Attributes:
        engine: the loaded model.
        store: where its blocks are kept.
        policy: which are kept on disk, and when reading one back pays.
    """

    engine: Engine
    store: KVCacheStore
    policy: CachePolicy

    def reuse(self, plan: Plan, mode: Caching) -> Reuse:
        """Return what of `plan` is stored. Reads files.

        Raises:
            CacheError: the plan moves a document and the model's RoPE does not allow it.
            OptionError: some of a document is to be read again and the model's attention kernel takes no mask.
        """
        position = 0
        for block in plan.blocks:
            if block.by_itself and position > 0:
                self.engine.prefill.rope.check_shiftable()
                if block.recomputed:
                    check_takes_masks(self.engine.weights.lm)
            position += len(block.placed)
        reuse = Reuse(plan, mode, self.store, self.policy, self._space())
        reuse.look_up()
        return reuse

    def keeper(self, items: Sequence[EncoderInput], mode: Caching, *, document: bool, doc_blocks: DocBlocks) -> Keep:
        """Return what receives the blocks of an embedding pass."""
        pattern = self.engine.checkpoint.tokenizer.format.embedding_pattern

        def keep(index: int, block: KVBlock) -> None:
            planned = PlannedBlock(tuple(items[index].ids), pattern, document, doc_blocks=doc_blocks)
            reuse = Reuse(Plan((planned,), ()), mode, self.store, self.policy, self._space())
            reuse.identify()
            reuse.keep(0, block.quantised() if reuse.quantises(planned) else block)

        return keep

    def prefetch(self, plan: Plan) -> None:
        """Bring the blocks of `plan` from disk into memory, in the background."""
        self.store.prefetch(plan_keys(plan, self._space())[: len(plan.blocks)])

    def stored(self, plans: Sequence[Plan]) -> list[bool]:
        """Return for each plan whether its first block is stored."""
        space = self._space()
        return self.store.contains([plan_keys(plan, space)[0] for plan in plans])

    def _space(self) -> KeySpace:
        weights, checkpoint = self.engine.weights, self.engine.checkpoint
        return KeySpace(
            model=self.engine.fingerprint,
            tokenizer=checkpoint.tokenizer.digest(),
            dtype=str(weights.dtype),
            device=_device(weights.device),
            software=f"torch {torch.__version__}, transformers {transformers.__version__}",
            attention=str(weights.lm.config._attn_implementation),
            quantization=self.engine.quantization,
            precision=self.store.precision,
            namespace=self.store.namespace,
        )


def total_report(mode: Caching, reports: Sequence[CacheReport]) -> CacheReport:
    """Add up what happened to several prompts."""
    saved = [report.seconds_saved for report in reports if report.seconds_saved is not None]
    return CacheReport(
        mode=mode,
        hits=sum(report.hits for report in reports),
        misses=sum(report.misses for report in reports),
        declined=tuple(reason for report in reports for reason in report.declined),
        bytes_read=sum(report.bytes_read for report in reports),
        seconds_saved=sum(saved) if saved else None,
    )


def _device(device: torch.device) -> str:
    """Name a kind of device, down to what decides how its kernels round."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type

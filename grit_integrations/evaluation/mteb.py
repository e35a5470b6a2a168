"""A GritLM in the benchmarks of mteb 2, as its encoder and as its cross-encoder. Needs the extra `mteb`.

GRIT embeds with bidirectional attention, and of a retrieval task the queries alone carry an instruction (arXiv
2402.09906, section 2 and appendix E). mteb's own entry for GritLM-7B embeds causally, through sentence-transformers.

    import mteb
    from grit_integrations import GritLM
    from grit_integrations.evaluation.mteb import GritEncoder
    results = mteb.evaluate(GritEncoder(GritLM("GritLM/GritLM-7B")), mteb.get_task("SciFact"))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt

from grit_integrations.errors import DataError, MissingExtraError, OptionError
from grit_integrations.model import GritLM
from grit_integrations.options import Reranking, RerankingOptions
from grit_integrations.progress import progress_bar

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.types import BatchedInput, PromptType


_TAKEN = ("batch_size", "show_progress_bar")  # of mteb's options; batches are cut by tokens, so their size is ignored


class GritEncoder:
    """A GritLM that fits mteb's `EncoderProtocol`: `mteb.evaluate(GritEncoder(grit), tasks)`.

    Queries get the task's instruction and documents none but the model's own. Texts of tasks that know no documents
    (classification, clustering, semantic similarity) get the instruction on every side, as in the GRIT paper. What is
    longer than the window is truncated; a blank text, which some corpora hold, has a vector of zeros, similar to
    nothing.

    Args:
        model: a `GritLM`, or its name or directory, which is how mteb's own loader makes one.
        revision: of a model that is given by name: branch, tag or commit.
        device: of a model that is given by name.
        instructions: by the name of the task, what its queries are for; by default the task's own prompt, else that of
            its kind of task. mteb keeps results of other instructions apart.

    Raises:
        MissingExtraError: mteb is not installed.
        ModelLoadError: the model cannot be loaded.
        OptionError: a revision or a device beside a `GritLM`, which has its own.
    """

    mteb_model_meta: ModelMeta

    def __init__(
        self,
        model: GritLM | str,
        revision: str | None = None,
        *,
        device: str | None = None,
        instructions: Mapping[str, str] | None = None,
    ) -> None:
        self.grit = _loaded(model, revision, device)
        self.instructions = dict(instructions or {})
        own = {"instructions": self.instructions} if self.instructions else {}
        self.mteb_model_meta = _described(self.grit, "dense", own)

    def encode(
        self,
        inputs: Iterable[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **options: Any,
    ) -> npt.NDArray[np.float32]:
        """Embed the texts of a task, (texts, dim).

        Raises:
            DataError: inputs without text.
            OptionError: an option other than mteb's `batch_size` and `show_progress_bar`.
        """
        progress = _progress(options)
        texts = _texts(inputs, task_metadata)
        is_document = prompt_type is not None and prompt_type.value == "document"
        embed = self.grit.embed_documents if is_document else self.grit.embed_queries
        instruction = None if is_document else task_instruction(task_metadata, self.instructions)
        held = [index for index, text in enumerate(texts) if text.strip()]
        vectors = np.zeros((len(texts), self.grit.dim), dtype=np.float32)
        vectors[held] = embed(
            [texts[index] for index in held], instruction=instruction, truncate=True, progress=progress
        )
        return vectors

    def similarity(self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike) -> Any:
        """Return the cosine of each of one side with each of the other, (first, second), as mteb computes it."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike) -> Any:
        """Return the cosine of each with its counterpart, (pairs,), as mteb computes it."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


class GritCrossEncoder:
    """A GritLM that fits mteb's `CrossEncoderProtocol`: what `GritLM.rerank` thinks of each query and passage.

    Args:
        model: a `GritLM`, or its name or directory, which is how mteb's own loader makes one.
        revision: of a model that is given by name: branch, tag or commit.
        device: of a model that is given by name.
        instructions: see `GritEncoder`; used where vectors have a part in the scores.
        **reranking: see `Reranking`. The scores of `method="listwise"` are places in one query's order.

    Raises:
        MissingExtraError: mteb is not installed.
        ModelLoadError: the model cannot be loaded.
        OptionError: an option that is not possible, or a revision or a device beside a `GritLM`, which has its own.
    """

    mteb_model_meta: ModelMeta

    def __init__(
        self,
        model: GritLM | str,
        revision: str | None = None,
        device: str | None = None,
        *,
        instructions: Mapping[str, str] | None = None,
        **reranking: Unpack[RerankingOptions],
    ) -> None:
        self.settings = Reranking(**reranking)
        self.reranking = reranking
        self.grit = _loaded(model, revision, device)
        self.instructions = dict(instructions or {})
        own = {"instructions": self.instructions} if self.instructions else {}
        self.mteb_model_meta = _described(self.grit, "cross-encoder", {**own, **reranking})

    def predict(
        self,
        inputs1: Iterable[BatchedInput],
        inputs2: Iterable[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **options: Any,
    ) -> npt.NDArray[np.float32]:
        """Score each query of `inputs1` with the passage beside it in `inputs2`, (pairs,).

        All passages of a query are scored together, so that what they share is read once.

        Raises:
            DataError: inputs without text.
            EmptyTextError: a query is blank.
            OptionError: an option other than mteb's `batch_size` and `show_progress_bar`.
        """
        progress = _progress(options)
        queries, passages = _texts(inputs1, task_metadata), _texts(inputs2, task_metadata)
        reranking = self._reranking(task_metadata)
        scores = np.empty(len(queries), dtype=np.float32)
        places = _by_text(queries)
        for query in progress_bar(places, desc="Reranking", unit="query", shown=progress):
            beside = [passages[place] for place in places[query]]
            for ranked in self.grit.rerank(query, beside, progress=False, **reranking):
                scores[places[query][ranked.index]] = ranked.score
        return scores

    def _reranking(self, task: TaskMetadata) -> RerankingOptions:
        if not self.settings.compares_vectors or "instruction" in self.reranking:
            return self.reranking
        return {**self.reranking, "instruction": task_instruction(task, self.instructions)}


def task_instruction(task: TaskMetadata, instructions: Mapping[str, str]) -> str:
    """Return what a task's queries are for: from `instructions` by its name, else its own prompt, else its kind's."""
    from mteb.abstasks.abstask import get_abstask_prompt

    if task.name in instructions:
        return instructions[task.name]
    prompt = task.prompt.get("query") if isinstance(task.prompt, Mapping) else task.prompt
    return str(prompt or get_abstask_prompt(task.name))


def _loaded(model: GritLM | str, revision: str | None, device: str | None) -> GritLM:
    try:
        import mteb  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("mteb", "mteb") from error
    if isinstance(model, str):
        return GritLM.named(model, revision=revision, device=device).load()
    for name, value in (("revision", revision), ("device", device)):
        if value is not None:
            raise OptionError(f"{name}={value!r} was given beside a GritLM, which has its own. Give one of the two.")
    return model.load()


def _described(grit: GritLM, kind: str, own: Mapping[str, Any]) -> ModelMeta:
    """Return what mteb files results under: the weights by their fingerprint, and what else changes a vector."""
    from mteb.models import ModelMeta
    from mteb.models.model_meta import ScoringFunction

    about = grit.describe()
    name = Path(grit.source).resolve().name if Path(grit.source).is_dir() else grit.source
    settings = {"dtype": about["dtype"], "pooling": about["pooling"], "truncate_dim": grit.settings.truncate_dim}
    return ModelMeta.create_empty(
        overwrites={
            "name": name if "/" in name else f"grit_integrations/{name}",
            "revision": about["fingerprint"],
            "n_parameters": about["parameters"],
            "memory_usage_mb": grit.lm.get_memory_footprint() / 2**20,
            "max_tokens": about["window"],
            "embed_dim": about["dim"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": True,
            "framework": ["PyTorch", "Transformers"],
            "model_type": [kind],
            "experiment_kwargs": {**{key: value for key, value in settings.items() if value is not None}, **own},
        }
    )


def _progress(options: Mapping[str, Any]) -> bool | None:
    """Return whether a bar is shown."""
    for name, value in options.items():
        if name not in _TAKEN:
            raise OptionError(f"{name}={value!r} is unknown here. Of mteb's options use {' and '.join(_TAKEN)}.")
    return options.get("show_progress_bar")


def _texts(inputs: Iterable[BatchedInput], task: TaskMetadata) -> list[str]:
    texts: list[str] = []
    for batch in inputs:
        if "text" not in batch:
            raise DataError(f"{task.name} has {', '.join(batch)} and no text. A GritLM reads text alone.")
        texts += batch["text"]
    return texts


def _by_text(texts: Iterable[str]) -> dict[str, list[int]]:
    """Return where each different text stands.

    >>> _by_text(["a", "b", "a"])
    {'a': [0, 2], 'b': [1]}
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(text, []).append(place)
    return places

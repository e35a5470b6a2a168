"""Both frameworks retrieve the same passages and quote from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from grit_integrations import GritLM, Quote, Quoting
from grit_integrations.cli.demo.pipelines import PASSAGES, langchain_pipeline, llama_index_pipeline
from grit_integrations.cli.model_choice import QUOTING
from grit_integrations.ingest import PassageIndex
from grit_integrations.options import CANDIDATES


@pytest.mark.parametrize(
    "quoting", [None, QUOTING, Quoting(method="tokens"), Quoting(method="spans", sentences=1)], ids=str
)
def test_both_pipelines_retrieve_the_same_and_answer(
    small: Path, tmp_path: Path, tiny: GritLM, quoting: Quoting | None
) -> None:
    index = PassageIndex(tmp_path / "store", tiny, create=True)
    index.index([small / "body"])
    found = index.search("What pumps blood?", k=CANDIDATES)
    ranked = tiny.rerank("What pumps blood?", [hit.document.page_content for hit in found], top_n=PASSAGES)
    wanted = [found[each.index] for each in ranked]
    for make in (langchain_pipeline, llama_index_pipeline):
        pipeline, models = make(index, max_tokens=6, quoting=quoting)
        assert all(model is tiny for model in models.values())
        hits, *pieces = pipeline("What pumps blood?")
        passages = [hit.document.page_content for hit in hits]
        assert passages == [hit.document.page_content for hit in wanted]
        assert [hit.score for hit in hits] == pytest.approx([each.score for each in ranked], abs=1e-5)
        assert [Path(hit.source).name for hit in hits] == [Path(hit.source).name for hit in wanted]
        quotes = [piece for piece in pieces if isinstance(piece, Quote)]
        texts = [piece for piece in pieces if isinstance(piece, str)]
        assert [quote.text for quote in quotes] == ([] if quoting is None else ["".join(texts)])
        assert all(passages[quote.document][quote.start : quote.end] == quote.text for quote in quotes)
        if quoting is None:
            assert len(texts) > 1  # it streams

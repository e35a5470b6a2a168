"""Keys: equal inputs give equal keys, and whatever decides a block's tensors changes its key."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from grit_integrations.doc_blocks import PLAIN, DocBlocks
from grit_integrations.kv.keys import KeySpace, child, plan_keys
from grit_integrations.prompts.plan import Plan, PlannedBlock

FIELDS = [field.name for field in fields(KeySpace)]

names = st.text("ab|/é ", max_size=4)
spaces = st.builds(KeySpace, **dict.fromkeys(FIELDS, names))
token_ids = st.lists(st.integers(0, 40_000), min_size=1, max_size=6).map(tuple)
blocks = st.builds(
    lambda ids, pattern, document, drop, own: PlannedBlock(ids, pattern, document, min(drop, len(ids) - 1), own),
    token_ids,
    st.sampled_from(["causal", "bidirectional", "alone"]),
    st.booleans(),
    st.integers(0, 1),
    st.sampled_from([None, DocBlocks(recompute_first=2), DocBlocks(recompute_share=0.5)]),
)
plans = st.builds(Plan, st.lists(blocks, max_size=5).map(tuple), token_ids)
SPACE = KeySpace(model="m", tokenizer="t", dtype="torch.float32", device="cpu", software="torch 2", attention="sdpa")


def test_every_field_of_a_space_is_known_here() -> None:
    known = "model tokenizer dtype device software attention quantization precision namespace"
    assert known.split() == FIELDS


@given(spaces, plans)
def test_equal_inputs_give_equal_keys(space: KeySpace, plan: Plan) -> None:
    again = Plan(tuple(replace(block) for block in plan.blocks), tuple(plan.suffix))
    assert plan_keys(plan, space) == plan_keys(again, replace(space))
    assert all(len(key) == 40 and set(key) <= set("0123456789abcdef") for key in plan_keys(plan, space))


@pytest.mark.parametrize("name", FIELDS)
@given(space=spaces, plan=plans, value=names)
def test_any_field_of_the_space_changes_every_key(name: str, space: KeySpace, plan: Plan, value: str) -> None:
    assume(value != getattr(space, name))
    other = replace(space, **{name: value})
    assert not set(plan_keys(plan, space)) & set(plan_keys(plan, other))


@given(spaces, spaces)
def test_texts_that_move_between_fields_make_another_space(one: KeySpace, other: KeySpace) -> None:
    assert (one.root() == other.root()) == (one == other)
    assert replace(one, model="a", tokenizer="bc").root() != replace(one, model="ab", tokenizer="c").root()


@given(token_ids, st.data())
def test_any_argument_changes_a_child(ids: tuple[int, ...], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(ids) - 1))
    changed = (*ids[:at], ids[at] + 1, *ids[at + 1 :])
    root = SPACE.root()
    keys = [
        child(root, "causal", ids),
        child(replace(SPACE, namespace="n").root(), "causal", ids),
        child(root, "bidirectional", ids),
        child(root, "alone", ids),
        child(root, "bidirectional", ids, setting="bidirectional 4 0.0"),
        child(root, "bidirectional", ids, setting="bidirectional 0 0.4"),
        child(root, "causal", ids, drop=1),
        child(root, "causal", ids, document=True),
        child(root, "causal", changed),
        child(root, "causal", ids[:-1]),
        child(root, "causal", (*ids, ids[-1])),
    ]
    assert len(set(keys)) == len(keys)
    assert child(root, "causal", list(ids)) == keys[0]


def changes(plan: Plan, data: st.DataObject) -> PlannedBlock:
    """One of the plan's blocks with one thing about it changed."""
    index = data.draw(st.integers(0, len(plan.blocks) - 1))
    block = plan.blocks[index]
    at = data.draw(st.integers(0, len(block.ids) - 1))
    return data.draw(
        st.sampled_from(
            [
                replace(block, pattern="causal" if block.by_itself else "bidirectional"),
                replace(block, doc_blocks=DocBlocks(recompute_first=3)),
                replace(block, document=not block.document),
                replace(block, drop=block.drop + 1),
                replace(block, ids=(*block.ids[:at], block.ids[at] + 1, *block.ids[at + 1 :])),
                replace(block, ids=(*block.ids, 7)),
            ]
        )
    )


def with_block(plan: Plan, index: int, block: PlannedBlock) -> Plan:
    return Plan((*plan.blocks[:index], block, *plan.blocks[index + 1 :]), plan.suffix)


@given(plans, st.data())
def test_a_causal_key_changes_with_anything_before_and_that_of_a_block_by_itself_does_not(
    plan: Plan, data: st.DataObject
) -> None:
    assume(plan.blocks)
    index = data.draw(st.integers(0, len(plan.blocks) - 1))
    changed = with_block(plan, index, changes(Plan((plan.blocks[index],), (0,)), data))
    pairs = list(zip(plan_keys(plan, SPACE), plan_keys(changed, SPACE), strict=True))
    assert all(before == after for before, after in pairs[:index])
    for at, (before, after) in enumerate(pairs[index + 1 :], start=index + 1):
        alone = at < len(plan.blocks) and plan.blocks[at].by_itself
        assert (before == after) == alone
    own, other = plan.blocks[index], changed.blocks[index]
    only_the_drop = own.by_itself and replace(own, drop=0) == replace(other, drop=0)
    assert (pairs[index][0] == pairs[index][1]) == only_the_drop  # read alike, only placed differently


@given(plans, st.data())
def test_where_blocks_end_changes_keys(plan: Plan, data: st.DataObject) -> None:
    """The same prompt cut elsewhere is computed in other pieces, whose bits may differ."""
    ids = (*plan.suffix, 5, 6)
    cut = data.draw(st.integers(1, len(ids) - 2))
    whole, cut_once = (
        Plan((*plan.blocks, PlannedBlock(ids)), (1,)),
        Plan((*plan.blocks, PlannedBlock(ids[:cut]), PlannedBlock(ids[cut:])), (1,)),
    )
    assert whole.prompt_ids == cut_once.prompt_ids
    assert set(plan_keys(whole, SPACE)[len(plan.blocks) :]).isdisjoint(plan_keys(cut_once, SPACE)[len(plan.blocks) :])


@given(st.lists(blocks, min_size=2, max_size=5, unique=True), st.data())
def test_the_order_of_blocks_changes_causal_keys_only(some: list[PlannedBlock], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(some))))
    assume(list(order) != sorted(order))
    plan, other = Plan(tuple(some), (1,)), Plan(tuple(some[index] for index in order), (1,))
    keys, others = plan_keys(plan, SPACE), plan_keys(other, SPACE)
    assert keys[-1] != others[-1]
    for place, index in enumerate(order):
        if some[index].by_itself:
            assert others[place] == keys[index]
        elif order[: place + 1] != list(range(place + 1)):
            assert others[place] not in keys


@given(plans)
def test_a_suffix_has_the_key_of_the_block_it_becomes(plan: Plan) -> None:
    longer = Plan((*plan.blocks, PlannedBlock(plan.suffix)), (1, 2))
    assert plan_keys(longer, SPACE)[:-1] == plan_keys(plan, SPACE)


def test_speeds_belong_to_a_model_in_its_precision_on_its_device() -> None:
    assert SPACE.hardware == "m/torch.float32/cpu"
    assert replace(SPACE, namespace="tenant", precision="int8").hardware == SPACE.hardware


@given(token_ids)
def test_blocks_that_nothing_is_read_again_of_keep_the_keys_that_they_had(ids: tuple[int, ...]) -> None:
    """A store that was filled before the setting existed is still found."""
    plans = [
        Plan((PlannedBlock(ids, "bidirectional", document=True, doc_blocks=each),), (1,)) for each in (None, PLAIN)
    ]
    assert plan_keys(plans[0], SPACE) == plan_keys(plans[1], SPACE)

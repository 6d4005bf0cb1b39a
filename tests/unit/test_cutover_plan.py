"""The plan of the cutover, from every recorded state (law 8)."""

from hypothesis import given
from hypothesis import strategies as st

from replicator.cutover.plan import UNDOABLE, Step, may_undo, recorded, remaining

states = st.frozensets(st.sampled_from(Step))


def test_a_new_cutover_does_every_step_in_order() -> None:
    assert list(remaining(())) == list(Step)


@given(states)
def test_whatever_was_recorded_the_plan_ends_with_everything_done(done: frozenset[Step]) -> None:
    assert done | set(remaining(done)) == set(Step)


@given(states)
def test_steps_keep_their_order(done: frozenset[Step]) -> None:
    assert list(remaining(done)) == [step for step in Step if step in set(remaining(done))]


@given(states.filter(may_undo))
def test_before_the_point_of_no_return_a_recorded_fence_is_not_trusted(done: frozenset[Step]) -> None:
    assert list(remaining(done))[: len(UNDOABLE)] == list(UNDOABLE)


@given(states.map(lambda done: done | {Step.POINT_OF_NO_RETURN}))
def test_after_it_what_is_done_is_not_repeated(done: frozenset[Step]) -> None:
    assert not set(remaining(done)) & done


@given(states)
def test_the_target_is_never_opened_before_the_source_is_sealed_for_good(done: frozenset[Step]) -> None:
    plan = list(remaining(done))
    if Step.OPEN in plan and Step.SEAL in plan:
        assert plan.index(Step.POINT_OF_NO_RETURN if Step.POINT_OF_NO_RETURN in plan else Step.SEAL) <= plan.index(
            Step.SEAL
        )
        assert plan.index(Step.SEAL) < plan.index(Step.OPEN)


def test_steps_of_other_commands_are_not_the_cutovers() -> None:
    assert recorded(["schema", "cutover:fence", "analyze"]) == {Step.FENCE}

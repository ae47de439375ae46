"""The index finds exactly the triggers that asking every one would find."""

from hypothesis import given
from hypothesis import strategies as st

from tests.core.build import event, trigger
from upshot.core.events import OWN_EVENT_PREFIX
from upshot.core.index import TriggerIndex
from upshot.core.triggers import Trigger

names = st.sampled_from(["a", "a.b", "a.c", "b", "a.b.c", "", "upshot.run.failed"])
patterns = st.lists(
    st.sampled_from(["a", "a.*", "*", "*.c", "!a", "!a.*", "a.b", "upshot.*", "*b*"]),
    min_size=1,
    max_size=3,
)
resource_ids = st.sampled_from(["1", "2", "3"])
matches = st.one_of(
    st.just({}),
    st.builds(lambda value: {"id": value}, resource_ids),
    st.builds(lambda values: {"id": values}, st.lists(resource_ids, min_size=1, max_size=3)),
    st.just({"id": "*"}),
    st.just({"id": ["1", "!2"]}),
)


@st.composite
def triggers(draw: st.DrawFn) -> list[Trigger]:
    count = draw(st.integers(0, 6))
    return [
        trigger(
            number,
            expect=draw(patterns),
            after=draw(st.one_of(st.just([]), patterns)),
            match=draw(matches),
        )
        for number in range(1, count + 1)
    ]


def found(index: TriggerIndex, name: str, resource_id: str) -> set[tuple[int, bool, bool]]:
    one = event(name, resource_id=resource_id)
    return {
        (candidate.trigger.number, candidate.opens, candidate.expected)
        for candidate in index.candidates(one)
        if candidate.selection.concerns(one)
    }


def expected(asked: list[Trigger], name: str, resource_id: str) -> set[tuple[int, bool, bool]]:
    one = event(name, resource_id=resource_id)
    answers = set()
    for each in asked:
        ((_, leaf),) = each.leaves
        selection = leaf.selection
        opens = selection.after is not None and selection.after.matches_name(name)
        expects = selection.expect.matches_name(name)
        if (opens or expects) and selection.concerns(one):
            answers.add((each.number, opens, expects))
    return answers


@given(triggers(), names, resource_ids)
def test_the_index_finds_what_asking_each_finds(
    asked: list[Trigger], name: str, resource_id: str
) -> None:
    index = TriggerIndex(asked)
    assert found(index, name, resource_id) == expected(asked, name, resource_id)
    # A second look is answered from what was resolved at the first.
    assert found(index, name, resource_id) == expected(asked, name, resource_id)


@given(triggers(), st.data())
def test_a_changed_or_removed_trigger_is_found_as_it_is_now(
    asked: list[Trigger], data: st.DataObject
) -> None:
    index = TriggerIndex(asked)
    name, resource_id = data.draw(names), data.draw(resource_ids)
    found(index, name, resource_id)
    removed = (
        data.draw(st.sets(st.sampled_from([each.number for each in asked]))) if asked else set()
    )
    for each in asked:
        if each.number in removed:
            index.remove(each.id)
    changed = [trigger(each.number, expect=["*"]) for each in asked if each.number not in removed]
    for each in changed:
        index.put(each)
    assert found(index, name, resource_id) == expected(changed, name, resource_id)


def test_an_event_is_offered_once_to_a_trigger_with_several_fitting_patterns() -> None:
    index = TriggerIndex([trigger(expect=["a.b", "a.*", "*"], match={"id": ["1", "1"]})])
    assert len(list(index.candidates(event("a.b", resource_id="1")))) == 1


def test_ten_thousand_triggers_on_other_names_and_ids_are_not_asked() -> None:
    others = [trigger(n, expect=[f"name.{n}"]) for n in range(1, 51)]
    others += [trigger(n, expect=["order"], match={"id": f"u{n}"}) for n in range(51, 101)]
    index = TriggerIndex([*others, trigger(101, expect=["order"], match={"id": "123"})])
    offered = [one.trigger.number for one in index.candidates(event("order", resource_id="123"))]
    assert offered == [101]


def test_own_events_are_offered_to_those_who_ask_for_them() -> None:
    index = TriggerIndex([trigger(1, expect=["*"]), trigger(2, expect=[OWN_EVENT_PREFIX + "*"])])
    offered = [one.trigger.number for one in index.candidates(event("upshot.run.failed"))]
    assert offered == [2]


@given(triggers(), names)
def test_a_name_is_of_interest_when_it_is_offered_to_somebody(
    asked: list[Trigger], name: str
) -> None:
    offered = any(expected([each], name, resource_id) for each in asked for resource_id in "1234")
    if offered:
        assert TriggerIndex(asked).is_of_interest(name)
    if not asked:
        assert not TriggerIndex(asked).is_of_interest(name)

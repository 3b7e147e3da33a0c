import json

from hypothesis import given
from hypothesis import strategies as st

from qwire.telemetry.redaction import redacted

CANARY = "§canary§"
withheld_keys = st.sampled_from(
    ["prompt", "text", "messages", "content", "completion", "output_text", "prompt_token_ids"]
)
said = st.sampled_from([CANARY, [CANARY], (CANARY, CANARY), {"role": CANARY}, CANARY.encode()])
other_keys = st.sampled_from(["model", "spec", "items", "request"])
safe = st.one_of(st.integers(), st.none(), st.booleans(), st.just("m"))


def nested(children: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(st.lists(children, max_size=3), st.dictionaries(other_keys, children, max_size=3), withheld)


withheld = st.dictionaries(withheld_keys, said, max_size=3)
events = st.dictionaries(other_keys, st.recursive(safe, nested, max_leaves=8))


@given(events, withheld)
def test_nothing_said_survives(event: dict[str, object], top: dict[str, object]):
    assert CANARY not in json.dumps(redacted({**event, **top}), default=repr, ensure_ascii=False)


def test_numbers_and_other_keys_stay():
    event = {"event": "done", "prompt_tokens": 3, "text": None, "model": "m", "context": "startup", "textual": "x"}
    assert redacted(dict(event)) == event


def test_the_original_is_not_changed():
    event = {"spec": {"prompt": "a"}}
    redacted(event)
    assert event == {"spec": {"prompt": "a"}}

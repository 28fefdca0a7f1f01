"""Reading YAML: lines, and what is refused before it can do harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.document import MAX_DEPTH, Mapping, load_documents, to_value
from policies.parse import parse_policies, parse_policy_objects


def _one(text: str) -> Mapping:
    documents, errors = load_documents(text, "t.yaml")
    assert errors == []
    assert len(documents) == 1
    return documents[0]


def test_every_value_knows_its_line() -> None:
    node = _one("a: 1\nb:\n  - x\n  - y: z\n")
    b = node.get("b")
    assert b is not None
    assert b.line == 3
    assert to_value(node) == {"a": 1, "b": ["x", {"y": "z"}]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("012", "012"),
        ("80:90", "80:90"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("-7", -7),
        ("0x10", 16),
        ("1.5", 1.5),
        ('"53"', "53"),
        ("'true'", "true"),
        ("!!str 53", "53"),
    ],
)
def test_plain_scalars_are_read_as_json_has_them(text: str, value: object) -> None:
    assert to_value(_one(f"a: {text}")) == {"a": value}


def test_several_documents_and_empty_ones() -> None:
    documents, errors = load_documents("---\na: 1\n---\n---\n# only words\n---\nb: 2\n", "t")
    assert [to_value(d) for d in documents] == [{"a": 1}, {"b": 2}]
    assert errors == []


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "twice"),
        ("a: 1\n---\n- x\n", 3, "must be a mapping"),
        ("just words\n", 1, "must be a mapping"),
        ("a: [1,\nb: {\n", 3, "not YAML"),
        ("a: *x\n", 1, "no anchor"),
        ("? [a]\n: 1\n", 1, "plain string"),
        ("a: !!python/object:os.system x\n", 1, "not supported"),
        ("a: " + "[" * (MAX_DEPTH + 5) + "]" * (MAX_DEPTH + 5), 1, "deep"),
    ],
)
def test_faults_are_errors_with_their_line(text: str, line: int, words: str) -> None:
    _, errors = load_documents(text, "t.yaml")
    assert [(e.line, words in e.message) for e in errors] == [(line, True)], errors


def test_documents_before_a_fault_are_kept() -> None:
    documents, errors = load_documents("a: 1\n---\nb: [\n", "t")
    assert len(documents) == 1
    assert len(errors) == 1


def test_an_alias_is_understood_and_a_bomb_of_them_is_not() -> None:
    assert to_value(_one("a: &x [1, 2]\nb: *x\n")) == {"a": [1, 2], "b": [1, 2]}
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for n in range(1, 12):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    _, errors = load_documents("\n".join(lines), "bomb")
    assert len(errors) == 1
    assert "aliases expand" in errors[0].message


def test_nesting_a_hundred_thousand_deep_is_refused_without_harm() -> None:
    _, errors = load_documents("a: " + "[" * 100_000, "deep")
    assert len(errors) == 1


def test_nested_objects_are_bounded_too() -> None:
    value: object = 1
    for _ in range(500):
        value = [value]
    result = parse_policy_objects([{"spec": value}], "batch")
    assert "deep" in result.errors[0].message


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    parse_policies(text, "any")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["spec", "egress", "ingress", "toPorts", "ports", "rules", "dns", "toCIDRSet", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_no_object_raises(value: object) -> None:
    result = parse_policy_objects(
        [
            {
                "apiVersion": "cilium.io/v2",
                "kind": "CiliumNetworkPolicy",
                "metadata": {"name": "x"},
                "spec": value,
            }
        ],
        "any",
    )
    assert bool(result.policies) or bool(result.errors)

"""Checks whether the caller may use the model, in Envoy's RBAC filter, by what authz_service said of the caller.

authz_service answers before a body is read, with what key, user, team and tier together allow: `models`, a list of
names (or `*`, for all), and `expressions`, all of which must match in the name; the body names the model. What is not
`*` is CEL, written as a syntax tree because Envoy does not parse its text form. A missing or broken part denies.

Looking up a list costs next to nothing, even one of 500 names; a regular expression is compiled for each request, and
is limited to 100 instructions. So authz_service sends expressions only where a list is not enough.
"""

from itertools import count
from typing import Any

from gatehouse.contract import names
from gatehouse.contract.model_patterns import EVERYTHING
from gatehouse.envoy.message import Message, extension, typed

_RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
_RBAC_PER_ROUTE = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"


class _Tree:
    """Builds CEL nodes, each with a unique id."""

    def __init__(self) -> None:
        self._ids = count(1)

    def node(self, **kind: Any) -> Message:
        return {"id": next(self._ids), **kind}

    def text(self, value: str) -> Message:
        return self.node(const_expr={"string_value": value})

    def number(self, value: int) -> Message:
        return self.node(const_expr={"int64_value": value})

    def call(self, function: str, *arguments: Message, target: Message | None = None) -> Message:
        call: Message = {"function": function, "args": list(arguments)}
        return self.node(call_expr={**call, "target": target} if target else call)

    def metadata(self, namespace: str, key: str) -> Message:
        """`metadata.filter_metadata[namespace][key]`"""
        root = self.node(ident_expr={"name": "metadata"})
        fields = self.node(select_expr={"operand": root, "field": "filter_metadata"})
        return self.call("_[_]", self.call("_[_]", fields, self.text(namespace)), self.text(key))


LEVELS = 4
"""Key, user, team and tier: each may restrict models by an expression."""


def _in_list(tree: _Tree, name: Message) -> Message:
    """`name in models`"""
    return tree.call("@in", name, tree.metadata(names.AUTHZ, "models"))


def _matches_expressions(tree: _Tree, level: int) -> Message:
    """`model.matches(expressions[0]) && (size(expressions) <= 1 || model.matches(expressions[1]) && …)`"""
    expression = tree.call("_[_]", tree.metadata(names.AUTHZ, "expressions"), tree.number(level))
    matches = tree.call("matches", expression, target=tree.metadata(names.LLM, "model"))
    if level + 1 == LEVELS:
        return matches
    number = tree.call("size", tree.metadata(names.AUTHZ, "expressions"))
    no_more = tree.call("_<=_", number, tree.number(level + 1))
    return tree.call("_&&_", matches, tree.call("_||_", no_more, _matches_expressions(tree, level + 1)))


def _rules(expression: Message) -> Message:
    """A caller with all models is recognized by a comparison, at a tenth of the cost of any expression."""
    cel = {
        "input": extension("cel", "xds.type.matcher.v3.HttpAttributesCelMatchInput"),
        "custom_match": extension(
            "cel", "xds.type.matcher.v3.CelMatcher", expr_match={"cel_expr_parsed": {"expr": expression}}
        ),
    }
    either = [_everything(), {"single_predicate": cel}]
    allow = [{"predicate": each, "on_match": {"action": _action("allowed", "ALLOW")}} for each in either]
    return {
        "matcher": {
            "matcher_list": {"matchers": allow},
            "on_no_match": {"action": _action("model_not_allowed", "DENY")},
        }
    }


def _everything() -> Message:
    """`*` is listed, and a model is named: if no body was read, and so no model is named, this fails, too."""
    every = {"list_match": {"one_of": {"string_match": {"exact": EVERYTHING}}}}
    named = {"string_match": {"safe_regex": {"regex": "(?s).+"}}}
    both = [_metadata_match(names.AUTHZ, "models", every), _metadata_match(names.LLM, "model", named)]
    return {"and_matcher": {"predicate": both}}


def _metadata_match(namespace: str, key: str, value: Message) -> Message:
    kind = "envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput"
    source = extension("envoy.matching.inputs.dynamic_metadata", kind, filter=namespace, path=[{"key": key}])
    matcher = "envoy.extensions.matching.input_matchers.metadata.v3.Metadata"
    match = extension("envoy.matching.matchers.metadata_matcher", matcher, value=value)
    return {"single_predicate": {"input": source, "custom_match": match}}


def _action(name: str, action: str) -> Message:
    return extension("envoy.filters.rbac.action", "envoy.config.rbac.v3.Action", name=name, action=action)


def by_requested_name() -> Message:
    """The filter: the caller may use the model that the body names."""
    tree = _Tree()
    listed = _in_list(tree, tree.metadata(names.LLM, "model"))
    return extension(names.MODEL_ACCESS, _RBAC, **_rules(tree.call("_||_", listed, _matches_expressions(tree, 0))))


def unrestricted() -> Message:
    """A route's own rule: none. (A route without a policy switches RBAC off.)"""
    return typed(_RBAC_PER_ROUTE)


def by_name(model: str) -> Message:
    """A route's own rule: the caller may use `model`, a name in the configuration. Such names are always listed."""
    tree = _Tree()
    return typed(_RBAC_PER_ROUTE, rbac=_rules(_in_list(tree, tree.text(model))))

"""May this caller use this model? Decided by Envoy's RBAC filter from what authz_service said of the caller.

authz_service answers before a body is read, with what key, user, team and tier together allow: `models`, a list of
names (or `*`, for all), and `expressions`, of which every one must be found in the name; the body names the model. What
is not `*` is CEL, written as a syntax tree because Envoy does not parse its text form. A missing or broken part denies.

Looking into a list costs next to nothing, also into one of 500 names; a regular expression is compiled for each
request, and may have 100 instructions. So authz_service gives expressions only where no list would do.
"""

from itertools import count
from typing import Any

from gatehouse.contract import names
from gatehouse.contract.model_patterns import EVERYTHING
from gatehouse.envoy.message import Message, extension, typed

_RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
_RBAC_PER_ROUTE = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"


class _Tree:
    """Builds CEL nodes, each with an id of its own."""

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
"""Key, user, team and tier: each may restrict by an expression."""


def _listed(tree: _Tree, name: Message) -> Message:
    """`name in models`"""
    return tree.call("@in", name, tree.metadata(names.AUTHZ, "models"))


def _expressed(tree: _Tree, level: int) -> Message:
    """`model.matches(expressions[0]) && (size(expressions) <= 1 || model.matches(expressions[1]) && …)`"""
    expression = tree.call("_[_]", tree.metadata(names.AUTHZ, "expressions"), tree.number(level))
    matches = tree.call("matches", expression, target=tree.metadata(names.LLM, "model"))
    if level + 1 == LEVELS:
        return matches
    number = tree.call("size", tree.metadata(names.AUTHZ, "expressions"))
    no_more = tree.call("_<=_", number, tree.number(level + 1))
    return tree.call("_&&_", matches, tree.call("_||_", no_more, _expressed(tree, level + 1)))


def _rules(expression: Message) -> Message:
    """A caller with all models is told by a comparison, which takes a tenth of what any expression does."""
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
    """`*` is listed, and there is a name: where no body was read, and so no model is named, this fails too."""
    every = {"list_match": {"one_of": {"string_match": {"exact": EVERYTHING}}}}
    named = {"string_match": {"safe_regex": {"regex": "(?s).+"}}}
    both = [_compared(names.AUTHZ, "models", every), _compared(names.LLM, "model", named)]
    return {"and_matcher": {"predicate": both}}


def _compared(namespace: str, key: str, value: Message) -> Message:
    kind = "envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput"
    shown = extension("envoy.matching.inputs.dynamic_metadata", kind, filter=namespace, path=[{"key": key}])
    matcher = "envoy.extensions.matching.input_matchers.metadata.v3.Metadata"
    match = extension("envoy.matching.matchers.metadata_matcher", matcher, value=value)
    return {"single_predicate": {"input": shown, "custom_match": match}}


def _action(name: str, action: str) -> Message:
    return extension("envoy.filters.rbac.action", "envoy.config.rbac.v3.Action", name=name, action=action)


def by_requested_name() -> Message:
    """The filter: the caller may use the model that the body names."""
    tree = _Tree()
    listed = _listed(tree, tree.metadata(names.LLM, "model"))
    return extension(names.MODEL_ACCESS, _RBAC, **_rules(tree.call("_||_", listed, _expressed(tree, 0))))


def unrestricted() -> Message:
    """A route's own rule: none. (An absent policy is how RBAC is switched off for a route.)"""
    return typed(_RBAC_PER_ROUTE)


def by_name(model: str) -> Message:
    """A route's own rule: the caller may use `model`, which the configuration names. Such names are always listed."""
    tree = _Tree()
    return typed(_RBAC_PER_ROUTE, rbac=_rules(_listed(tree, tree.text(model))))

"""May this key use this model? Decided by Envoy's RBAC filter from what authz_service said of the key.

authz_service answers before a body is read, with the models of the key as a regular expression in `models`; the body
names the model. The condition is CEL, written as a syntax tree because Envoy does not parse its text form. A missing or
broken expression denies.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any

from gatehouse.envoy import names
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

    def call(self, function: str, *arguments: Message, target: Message | None = None) -> Message:
        call: Message = {"function": function, "args": list(arguments)}
        return self.node(call_expr={**call, "target": target} if target else call)

    def metadata(self, namespace: str, key: str) -> Message:
        """`metadata.filter_metadata[namespace][key]`"""
        root = self.node(ident_expr={"name": "metadata"})
        fields = self.node(select_expr={"operand": root, "field": "filter_metadata"})
        return self.call("_[_]", self.call("_[_]", fields, self.text(namespace)), self.text(key))


def _allowed(tree: _Tree, name: Message) -> Message:
    """`name.matches(models)`"""
    return tree.call("matches", tree.metadata(names.AUTHZ, "models"), target=name)


def _rules(expression: Message) -> Message:
    condition = {
        "input": extension("cel", "xds.type.matcher.v3.HttpAttributesCelMatchInput"),
        "custom_match": extension(
            "cel", "xds.type.matcher.v3.CelMatcher", expr_match={"cel_expr_parsed": {"expr": expression}}
        ),
    }
    allow = {"predicate": {"single_predicate": condition}, "on_match": {"action": _action("allowed", "ALLOW")}}
    return {
        "matcher": {
            "matcher_list": {"matchers": [allow]},
            "on_no_match": {"action": _action("model_not_allowed", "DENY")},
        }
    }


def _action(name: str, action: str) -> Message:
    return extension("envoy.filters.rbac.action", "envoy.config.rbac.v3.Action", name=name, action=action)


def by_requested_name() -> Message:
    """The filter: the name in the body must be one of the key's models."""
    tree = _Tree()
    return extension(names.MODEL_ACCESS, _RBAC, **_rules(_allowed(tree, tree.metadata(names.LLM, "model"))))


def unrestricted() -> Message:
    """A route's own rule: none. (An absent policy is how RBAC is switched off for a route.)"""
    return typed(_RBAC_PER_ROUTE)


def by_name(model_names: Sequence[str]) -> Message:
    """A route's own rule: one of `model_names`, all names of one model, must be among the key's models."""
    tree = _Tree()
    first, *others = (_allowed(tree, tree.text(name)) for name in model_names)
    expression = first
    for other in others:
        expression = tree.call("_||_", expression, other)
    return typed(_RBAC_PER_ROUTE, rbac=_rules(expression))

"""Random YAML that is nearly a configuration of envoyproxy/ratelimit: odd scalars and styles, broken characters."""

from random import Random

_ODD = r"""
y n Y N yes no on off true false True FALSE ~ null Null NULL '' "" 'null' "~" 0 1 5 007 08 010 0o10 0b11 0x1F -0 +1 -1
1_000 1e3 1.5 .5 . -.5 +.inf .nan 4294967295 4294967296 9223372036854775807 9223372036854775808 18446744073709551616
2024-01-01 2024-01-01T10:00:00Z 12:30:45 1:2 a:b a#b a,b [] {} [a] {a:1} {"a":1} minute Hour DAY week month year seconds
'minute' "hour" !!str_5 !!int_5 !!int_a !!float_3 !!bool_y !!null_x !!binary_aGk= !!binary_? !x_y !_5 *a *z &b_x &a_x
<< >- | - ? % @ ` é \x 1.2.3.4 a_b "a\nb" "\u00e9" "\q" 'it''s' ---x ...
"""
_SCALARS = [word if word == "1_000" else word.replace("_", " ") for word in _ODD.split()]
_KEYS = ("domain", "descriptors", "key", "value", "rate_limit", "unit", "requests_per_unit", "unlimited", "name")
_MORE = ("replaces", "shadow_mode", "quota_mode", "detailed_metric", "value_to_metric", "<<")
_NOISE = "\t\t\t \n:#-[]{},&*!|>'\"%@`~?\\0ay\r\u0085\u00a0\x07\x00"
_UNITS = ("second", "minute", "hour", "day")


class RandomYaml:
    def __init__(self, random: Random) -> None:
        self._random = random

    def text(self) -> str:
        """A file: taken as often as not."""
        lines = [f"domain: {self._odd('shop', 0.1)}", "descriptors:", *self._descriptors(1)]
        text = "\n".join(lines) + "\n"
        for _ in range(self._random.choice((0, 0, 0, 0, 1, 2))):
            text = self._broken(text)
        return text

    def _descriptors(self, depth: int) -> list[str]:
        indent = "  " * depth
        lines: list[str] = []
        for number in range(self._random.randint(1, 3)):
            anchor = "&a " if self._is(0.05) else ""
            lines.append(f"{indent}- {anchor}key: {self._odd(f'k{number}', 0.1)}" if not anchor else f"{indent}- &a")
            if anchor:
                lines.append(f"{indent}  key: k{number}")
            fields = [self._field(depth, indent) for _ in range(self._random.randint(0, 4))]
            lines += [line for field in fields for line in field]
        return lines

    def _field(self, depth: int, indent: str) -> list[str]:
        choice = self._random.random()
        if choice < 0.45:
            return self._rate_limit(indent)
        if choice < 0.6:
            return [f"{indent}  value: {self._odd('v', 0.5)}{self._end()}"]
        if choice < 0.75:
            flag = self._random.choice(("shadow_mode", "quota_mode", "detailed_metric", "value_to_metric"))
            return [f"{indent}  {flag}:{self._gap()}{self._odd('true', 0.6)}{self._end()}"]
        if choice < 0.85 and depth < 3:
            return [f"{indent}  descriptors:{self._end()}", *self._descriptors(depth + 1)]
        if choice < 0.9:
            return [f"{indent}  <<: {self._random.choice(('*a', '{value: m}', '[*a, {value: m}]', 'x', '[x]'))}"]
        return [f"{indent}  {self._random.choice((*_KEYS, *_MORE))}: {self._odd('x', 0.7)}"]

    def _rate_limit(self, indent: str) -> list[str]:
        unit, number = self._odd(self._random.choice(_UNITS), 0.1), self._odd("5", 0.3)
        fields = [("unit", unit), ("requests_per_unit", number)]
        if self._is(0.15):
            fields.append(("unlimited", self._odd("true", 0.3)))
        if self._is(0.2):
            fields.append(("name", self._odd("n", 0.3)))
        if self._is(0.1):
            fields.append(("replaces", self._random.choice(("[{name: o}]", "[]", "[{name: n}]", "[{}]", "x", "[o]"))))
        if self._is(0.3):
            gap = self._random.choice((" ", "\t", "  "))
            inside = f",{gap}".join(f'"{name}":{gap}{value}' for name, value in fields)
            return [f"{indent}  rate_limit: {{{gap}{inside}{gap}}}{self._end()}"]
        return [
            f"{indent}  rate_limit:{self._end()}",
            *(f"{indent}    {name}:{self._gap()}{value}{self._end()}" for name, value in fields),
        ]

    def _odd(self, usual: str, likely: float) -> str:
        """`likely` is tamed: a file has many places where something odd may stand, and some should have none."""
        return self._random.choice(_SCALARS) if self._is(likely / 3) else usual

    def _gap(self) -> str:
        return "\t" if self._is(0.05) else " "

    def _end(self) -> str:
        return self._random.choice(("\t", "\t# c", "  # c", " #", "\r")) if self._is(0.1) else ""

    def _broken(self, text: str) -> str:
        place = self._random.randrange(len(text))
        kind = self._random.random()
        if kind < 0.6:
            return text[:place] + self._random.choice(_NOISE) + text[place + self._random.randrange(2) :]
        if kind < 0.8:
            return text[:place] + text[place + self._random.randint(1, 5) :]
        lines = text.splitlines(keepends=True)
        lines.insert(self._random.randrange(len(lines)), self._random.choice(lines))
        return "".join(lines)

    def _is(self, likely: float) -> bool:
        return self._random.random() < likely

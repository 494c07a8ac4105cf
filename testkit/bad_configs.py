"""Invalid configurations, each with part of its error message."""

START = "vllm: {base_url: 'http://localhost:8100/v1'}\n"

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{outer}: &{outer} [{', '.join([f'*{inner}'] * 10)}]\n" for inner, outer in zip("abcdefg", "bcdefgh", strict=True)
)

BAD: dict[str, tuple[str, str]] = {
    "no YAML": (START + "a: [1, 2\n", "not valid YAML"),
    "a tab": (START + "server:\n\tport: 1\n", "not valid YAML"),
    "no mapping": ("just text\n", "must contain settings"),
    "nothing": ("", "there is no model server to proxy"),
    "two documents": (START + "---\n" + START, "only one document is allowed"),
    "an unknown section": (START + "rate_limit: {}\n", "gatehouse.yaml:2: rate_limit: unknown field"),
    "an unknown field": (START + "server: {prot: 1}\n", "gatehouse.yaml:2: server.prot: unknown field"),
    "the same field twice": (START + "server: {}\nserver: {}\n", "this name is used twice here"),
    "a bad port": (START + "server: {port: 70000}\n", "gatehouse.yaml:2: server.port"),
    "text for a number": (START + "server: {drain_s: soon}\n", "gatehouse.yaml:2: server.drain_s"),
    "a bad unit": (START + "rate_limits: {free: {requests_per_fortnight: 1}}\n", "unknown field"),
    "a number that some read in base 8": (
        START + "rate_limits:\n  free: {requests_per_minute: 010}\n",
        "gatehouse.yaml:3: rate_limits.free.requests_per_minute: some read this number in base 8",
    ),
    "a number in base 60": (START + "server: {drain_s: 1:30}\n", "gatehouse.yaml:2: server.drain_s: some read this"),
    "an origin with a path": (START + "server: {cors: ['https://a.example.com/']}\n", "server.cors"),
    "a bad algorithm": (START + "rate_limits: {free: {algorithm: leaky}}\n", "rate_limits.free.algorithm"),
    "a limit that never binds": (
        START + "rate_limits:\n  free:\n    requests_per_minute: 1\n    requests_per_hour: 100\n",
        "gatehouse.yaml:5: rate_limits.free.requests_per_hour: can never bind",
    ),
    "a limit of nothing": (START + "rate_limits: {free: {requests_per_minute: 0}}\n", "requests_per_minute"),
    "a budget without prices": (START + "rate_limits: {free: {budget_usd_per_month: 1}}\n", "no model has a price"),
    "an unknown tier": (
        START + "rate_limits: {free: {}}\napi_keys: {sk-key-0001: {user_id: u, tier: fre}}\n",
        "gatehouse.yaml:3: api_keys.<key>.tier",
    ),
    "a key without a user": (START + "api_keys: {sk-key-0001: {}}\n", "user_id: is missing"),
    "both forms": (START + "models: {m: {backends: [{url: 'http://a:1'}]}}\n", "can't both be set"),
    "no backends": ("models: {m: {backends: []}}\n", "models.m.backends"),
    "a bad URL": ("vllm: {base_url: 'localhost:8100'}\n", "vllm.base_url"),
    "an unknown default model": ("models: {m: {backends: [{url: 'http://a:1'}]}}\ndefault_model: n\n", "no model is"),
    "one alias twice": (
        "models:\n  m: {backends: [{url: 'http://a:1'}], aliases: [x]}\n"
        "  n: {backends: [{url: 'http://a:1'}], aliases: [x]}\n",
        "gatehouse.yaml:3: models.n: two models answer to the name 'x'",
    ),
    "a bad network": (START + "users: {u: {allowed_ips: [10.0.0.0/33]}}\n", "is not an address or a network"),
    "an alias bomb": (START + BOMB, "aliases expand to more than a configuration can hold"),
    "an issuer whose tokens anyone can make": (
        START + "jwt: [{issuer: 'https://i', audience: a, algorithms: [HS256]}]\n",
        "is symmetric",
    ),
    "a key file that is not there": (START + "key_files: [/nowhere/keys.yaml]\n", "/nowhere/keys.yaml: can't be read"),
    "a pepper that is not there": (START + "keys: {peppers: {a: 'env:NO_SUCH_PEPPER'}}\n", "NO_SUCH_PEPPER"),
}

"""The dashboards: each panel is a question, with the queries that answer it."""

from scripts.dashboards.panel import Bars, Dashboard, Lines, Number

RATE = "[$__rate_interval]"


def quantiles(metric: str, by: str = "") -> dict[str, str]:
    """p50, p95 and p99 of a histogram; `by` a label, p95 alone."""
    rate = f"rate({metric}_bucket{RATE})"
    if by:
        return {f"{{{{{by}}}}}": f"histogram_quantile(0.95, sum by (le, {by}) ({rate}))"}
    return {f"p{q}": f"histogram_quantile(0.{q}, sum by (le) ({rate}))" for q in (50, 95, 99)}


def rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{where}{RATE}))"


def share(part: str, whole: str) -> str:
    """0 without a `part`; no value where `whole` is 0."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def by_team(query: str) -> str:
    return f"sum by (team) ({query} * on (user) group_left (team) max by (user, team) (api_user_info))"


def top(query: str, most: int = 10) -> str:
    return f"topk({most}, {query})"


FAILED = f'rate(api_requests_total{{status=~"5.."}}{RATE}) or rate(api_failed_answers_total{RATE})'
"""Answers that are errors, and those that have one inside."""

TRAFFIC = Dashboard(
    "traffic",
    "Who asks for what, and what becomes of it",
    Number("Requests a second", f"sum(rate(api_requests_total{RATE}))", "reqps"),
    Number("Tokens a second", f'sum(rate(api_tokens_total{{type!="cached"}}{RATE}))', "short"),
    Number("In flight", "sum(api_requests_in_flight)", "short"),
    Number(
        "Failed",
        f"(sum({FAILED}) or vector(0)) / sum(rate(api_requests_total{RATE}))",
        "percentunit",
        warn=0.01,
        bad=0.05,
    ),
    Lines("Requests by status", {"{{status}}": rate("api_requests_total", "status")}, "reqps", stacked=True),
    Lines(
        "Requests by model", {"{{model}}": rate("api_requests_total", "model", '{model!=""}')}, "reqps", stacked=True
    ),
    Lines("Requests by endpoint", {"{{endpoint}}": rate("api_requests_total", "endpoint")}, "reqps"),
    Lines("Busiest users", {"{{user}}": top(rate("api_requests_total", "user", '{user!=""}'))}, "reqps"),
    Lines("Errors by code", {"{{code}}": f"{rate('api_errors_total', 'code')} > 0"}, "reqps"),
    Lines(
        "Share of requests that fail, by model",
        {
            "{{model}}": share(
                f"sum by (model) ({FAILED})",
                rate("api_requests_total", "model", '{model!=""}'),
            )
        },
        "percentunit",
    ),
)

LATENCY = Dashboard(
    "latency",
    "How long people wait",
    Number("First token, p95", quantiles("api_time_to_first_token_seconds")["p95"], "s", warn=2, bad=5),
    Number("Token after token, p95", quantiles("api_time_per_output_token_seconds")["p95"], "s", warn=0.1, bad=0.3),
    Number("Whole answer, p50", quantiles("api_request_duration_seconds")["p50"], "s"),
    Number("Whole answer, p99", quantiles("api_request_duration_seconds")["p99"], "s"),
    Lines("Time to first token", quantiles("api_time_to_first_token_seconds"), "s"),
    Lines("Time to first token, p95, by model", quantiles("api_time_to_first_token_seconds", "model"), "s"),
    Lines("Time per output token", quantiles("api_time_per_output_token_seconds"), "s"),
    Lines("Time per output token, p95, by model", quantiles("api_time_per_output_token_seconds", "model"), "s"),
    Lines("Whole answer", quantiles("api_request_duration_seconds"), "s"),
    Lines("Whole answer, p95, by endpoint", quantiles("api_request_duration_seconds", "endpoint"), "s"),
)

TOKENS = Dashboard(
    "tokens",
    "Who uses how many tokens, and what it costs",
    Number("Prompt tokens, last 24 h", 'sum(increase(api_tokens_total{type="prompt"}[24h]))', "short"),
    Number("Completion tokens, last 24 h", 'sum(increase(api_tokens_total{type="completion"}[24h]))', "short"),
    Number(
        "Prompt tokens from the cache, last 24 h",
        '(sum(increase(api_tokens_total{type="cached"}[24h])) or vector(0))'
        ' / sum(increase(api_tokens_total{type="prompt"}[24h]))',
        "percentunit",
    ),
    Number("Cost, last 24 h", "sum(increase(api_cost_usd_total[24h]))", "currencyUSD"),
    Lines("Tokens a second by kind", {"{{type}}": rate("api_tokens_total", "type")}, "short"),
    Lines(
        "Tokens a second by model",
        {"{{model}}": rate("api_tokens_total", "model", '{type!="cached"}')},
        "short",
        stacked=True,
    ),
    Lines(
        "Tokens a second by team",
        {"{{team}}": by_team(rate("api_tokens_total", "user", '{type!="cached"}'))},
        "short",
        stacked=True,
    ),
    Lines(
        "Cost an hour by team",
        {"{{team}}": "3600 * " + by_team(rate("api_cost_usd_total", "user"))},
        "currencyUSD",
        stacked=True,
    ),
    Bars(
        "Tokens by user, last 24 h",
        "{{user}}",
        'topk(15, sum by (user) (increase(api_tokens_total{type!="cached"}[24h])))',
        "short",
    ),
    Bars(
        "Cost by user, last 24 h",
        "{{user}}",
        "topk(15, sum by (user) (increase(api_cost_usd_total[24h])))",
        "currencyUSD",
    ),
)

LIMITS = Dashboard(
    "limits",
    "Who runs into what",
    Number(
        "Refused by limits",
        f'(sum(rate(api_requests_total{{status="429"}}{RATE})) or vector(0)) / sum(rate(api_requests_total{RATE}))',
        "percentunit",
        warn=0.05,
        bad=0.2,
    ),
    Number("Decisions without Redis", f"sum(increase(api_rate_limit_degraded_total{RATE}))", "short", warn=1, bad=100),
    Number(
        "Requests without a decision", f"sum(increase(api_rate_limit_bypassed_total{RATE}))", "short", warn=1, bad=100
    ),
    Number(
        "Wrong or missing keys a second", f'sum(rate(api_auth_decisions_total{{result!="allowed"}}{RATE}))', "reqps"
    ),
    Lines(
        "Refusals by limit",
        {"{{limit}}": rate("api_rate_limit_decisions_total", "limit", '{result="limited"}')},
        "reqps",
        stacked=True,
    ),
    Lines(
        "Refused requests by user",
        {"{{user}}": top(rate("api_requests_total", "user", '{status="429"}'))},
        "reqps",
    ),
    Lines("Decisions by result", {"{{result}}": rate("api_rate_limit_decisions_total", "result")}, "reqps"),
    Lines("Keys by what was found", {"{{result}}": rate("api_auth_decisions_total", "result")}, "reqps"),
    Bars(
        "Limits near their end",
        "{{holder}} {{limit}}",
        "topk(15, max by (holder, limit) (api_limit_used_ratio))",
        "percentunit",
        warn=0.8,
        bad=1,
    ),
)

BACKENDS = Dashboard(
    "backends",
    "Are the model servers up, and how full are they",
    Number("Healthy servers", 'sum(api_backends{state="healthy"})', "short"),
    Number("Servers down", 'sum(api_backends{state="unhealthy"})', "short", warn=1, bad=2),
    Number("In flight", "sum(api_requests_in_flight)", "short"),
    Number("Waiting for a connection", "sum(api_requests_queued)", "short", warn=1, bad=10),
    Lines("Healthy servers by model", {"{{model}}": 'sum by (model) (api_backends{state="healthy"})'}, "short"),
    Lines(
        "Requests in flight by model", {"{{model}}": "sum by (model) (api_requests_in_flight)"}, "short", stacked=True
    ),
    Lines(
        "Completion tokens a second by model",
        {"{{model}}": rate("api_tokens_total", "model", '{type="completion"}')},
        "short",
    ),
    Lines(
        "Tokens a second that one stream gets, median",
        {
            "{{model}}": "1 / histogram_quantile(0.5, "
            f"sum by (le, model) (rate(api_time_per_output_token_seconds_bucket{RATE})))"
        },
        "short",
    ),
    Lines(
        "Second tries and refused connections",
        {
            "{{model}} tried again": rate("api_backend_retries_total", "model"),
            "{{model}} refused": rate("api_backend_connect_failures_total", "model"),
        },
        "reqps",
    ),
    Lines("Requests waiting for a connection", {"{{model}}": "sum by (model) (api_requests_queued)"}, "short"),
)

HEALTH = Dashboard(
    "health",
    "Does the gateway itself do its work",
    Number("Gateways up", 'sum(up{job="gatehouse"})', "short"),
    Number("Connections of clients", "sum(api_connections)", "short"),
    Number("Records lost, last 24 h", "sum(increase(api_access_log_lost_total[24h]))", "short", warn=1, bad=100),
    Number(
        "Settlements lost, last 24 h",
        "sum(increase(api_settlements_lost_total[24h])) + sum(increase(api_rate_limit_events_lost_total[24h]))",
        "short",
        warn=1,
        bad=100,
    ),
    Number(
        "Answers without token counts, last 24 h", "sum(increase(api_uncounted_answers_total[24h]))", "short", warn=1
    ),
    Lines(
        "Requests without an identity check",
        {"{{instance}}": f"sum by (instance) (rate(api_auth_unavailable_total{RATE}))"},
        "reqps",
    ),
    Lines("Failures of Redis", {"{{kind}}": rate("api_rate_limit_store_errors_total", "kind")}, "reqps"),
    Lines(
        "Share of time without a CPU",
        {"{{worker}}": f"max by (worker) (rate(api_worker_starved_seconds_total{RATE}))"},
        "percentunit",
    ),
    Lines("Starts of workers", {"{{worker}}": "sum by (worker) (increase(api_worker_starts_total[15m]))"}, "short"),
    Lines(
        "Changes of configuration", {"{{result}}": "sum by (result) (increase(api_config_reloads_total[15m]))"}, "short"
    ),
    Lines("Key store not heard for", {"{{instance}}": "max by (instance) (api_key_store_age_seconds)"}, "s"),
    Lines(
        "Fetches of issuers' keys",
        {"{{issuer}} {{result}}": "sum by (issuer, result) (increase(api_jwks_refreshes_total[15m]))"},
        "short",
    ),
)

ALL = (TRAFFIC, LATENCY, TOKENS, LIMITS, BACKENDS, HEALTH)

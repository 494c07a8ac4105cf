"""A stand-in for a model server, to try the gateway without a GPU. It is not a model: it echoes the prompt.

It speaks vLLM's HTTP API (shapes as vLLM 0.32 gives them), counts tokens with a tokenizer of its own and answers the
same request with the same text every time. The front door of the code:

- `tokens`      text to tokens and back
- `echo`        the answer to a prompt, and its tokens
- `api`         what every kind of request must offer
- `completion`, `chat`, `responses`, `messages`   the APIs that make text, whole or streamed
- `pooling`     embeddings, scores and ranks
- `tokenizing`  the tokenizer over HTTP
- `wire`, `errors`   JSON, server-sent events and errors as vLLM writes them
- `app`         routes, pacing and reading of requests
"""

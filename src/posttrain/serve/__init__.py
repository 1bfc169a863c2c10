"""An HTTP server of OpenAI's protocol in front of one engine.

program: starts it (uvicorn, signals, a graceful stop). app: the routes. gate: keys and bodies,
before anything is parsed. schema: the fields of requests. chat, completions, search: what each
answers. service: what they share. generation: a request in the engine, as the event loop sees it.
worker: the one thread that owns the engine.
"""

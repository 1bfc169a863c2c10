"""An HTTP server of OpenAI's protocol in front of one engine.

program      starts it: uvicorn, signals, a graceful stop
app          routes and shapes of FastAPI; nothing else imports it
gate         keys, size of a body, state of the server: before a body is parsed
schema       the fields of a request; unknown ones are refused
chat, completions, search, likelihood, models      one route or field each
generation   one request in the engine, as the event loop sees it
worker       the one thread that owns the engine
transcript   from token ids to text that can be sent
served       the model with its tokenizer, limits and engine
"""

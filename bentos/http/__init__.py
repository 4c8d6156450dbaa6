"""HTTP.

messages  what passes between who carries HTTP and who knows what to say
front     the routes of a release: from the bytes of a request to those of its answer
lane      the short way: uvicorn's protocol, answering at once what `front` knows
asgi      the same for any ASGI server
"""

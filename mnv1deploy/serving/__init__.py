"""A network behind HTTP: the Open Inference Protocol for programs, ``/classify`` and a page for people.

``http.application`` is the ASGI application, for any server of such; ``server.Server`` runs it as ``mnv1 serve`` does.
"""

"""Where a request's time goes: flame graphs of the services under load, and a waterfall."""

"""Services: each connection gets a sandbox of its own, made for it and destroyed after it."""

def script(plan): return b""

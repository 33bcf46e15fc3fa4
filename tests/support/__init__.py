"""What the tests share: children, probes, the ordinary user, the leak check. Only plans.py imports nstool."""

"""What the tests share: children, probes, the ordinary user, the leak check. Nothing here imports nstool."""

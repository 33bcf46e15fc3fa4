"""The network room: links, addresses, NAT, firewall and published ports of a sandbox (docs/network.md)."""

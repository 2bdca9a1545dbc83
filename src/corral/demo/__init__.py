"""The whole loop on one machine: a tiny real model, the real server, a scan, a guard, and a flood."""

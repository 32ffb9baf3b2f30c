"""Streaming recursion, backends, video in and out. Never imports PyTorch."""

"""The data plane: HTTP/1.1 on both sides, written on asyncio's protocols; framing is llhttp's, in its strict mode."""

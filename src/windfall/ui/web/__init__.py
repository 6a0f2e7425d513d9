"""The dashboard: pages, the JSON behind them, and streams of what changes, over HTTP."""

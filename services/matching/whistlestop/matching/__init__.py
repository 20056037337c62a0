"""Task queues: polls, backlogs, sticky queues, limits, and the workers that stand behind them."""

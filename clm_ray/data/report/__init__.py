"""What `prepare` found: the short report, and the page of pictures with the figures behind them."""

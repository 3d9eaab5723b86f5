"""One module per paper: what is attempted, what is rewarded, what is learned from. Nothing here knows a tensor."""

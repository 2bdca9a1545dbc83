"""How a stream of events is ended that the server does not end itself: one file for each kind of stream."""

"""Looking through a folder of results: a server on this machine, decisions on cases, and what is made of them."""

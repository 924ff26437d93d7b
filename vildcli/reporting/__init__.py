"""A labelling run as one page of HTML that needs nothing else: no database, no network."""

"""How the service is run and watched: what is beside the code, and what makes those files."""

"""The command `shm-async`: what it says and how it looks. The facts come from elsewhere."""

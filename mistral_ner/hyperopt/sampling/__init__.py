"""What is tried next: how promising a trial looks, what samplers see of it, and what they propose."""

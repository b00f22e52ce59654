"""What people say, as preferences: by rules, or by a language model behind an endpoint."""

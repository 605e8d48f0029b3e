"""Client of a samclip server: a model's methods, answered over HTTP."""

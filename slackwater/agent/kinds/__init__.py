"""How applications are held: one module for each kind, all behind `kind.Kind`."""

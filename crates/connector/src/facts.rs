//! What two instances must agree on before a byte moves: model, layout, type, versions; and the first that differs.

//! A worker's KV cache as the engine sees it: from tensor views to parts, groups and rectangles.

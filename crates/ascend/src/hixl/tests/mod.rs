mod endpoints;
mod offer;

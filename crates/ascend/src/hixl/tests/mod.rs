mod bond;
mod config;
mod endpoints;
mod offer;
mod registry;

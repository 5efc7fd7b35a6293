//! The Python module atlas._native: conversion only.
